"""The feature sets of openSMILE, which the field's papers use: IS10 on IEMOCAP, others elsewhere.

openSMILE: Eyben et al. (2010), "openSMILE: the Munich versatile and fast open-source audio feature
extractor", ACM Multimedia, 1459-1462. IS10: Schuller et al. (2010), "The INTERSPEECH 2010 paralinguistic
challenge". GeMAPS: Eyben et al. (2016), IEEE Trans. Affective Computing 7, 190-202.
"""

import difflib
from typing import Any, Final

import numpy as np

from mmerc.errors import FeatureError
from mmerc.extras import needed
from mmerc.features.loudness import why_not_measured
from mmerc.features.recipe import SAMPLE_RATE, Measured, Samples

LICENCE: Final = (
    "openSMILE is free for research, teaching and personal use only (audEERING Research License). "
    "Its licence also covers the features that it measures and the models that are trained on them: "
    "a product needs a licence from audEERING. The features `prosody` have no such limit."
)
# Name → width. The sets that the package itself calls deprecated are left out.
FEATURE_SETS: Final = {
    "IS09": 384,
    "IS10": 1582,
    "IS11": 4368,
    "IS12": 6125,
    "IS13": 6373,
    "ComParE_2016": 6373,
    "GeMAPSv01b": 62,
    "eGeMAPSv02": 88,
    "emobase": 988,
}
SHORTEST: Final = SAMPLE_RATE * 70 // 1000  # samples; IS10 to IS12 give nothing for less than 66 ms


class OpenSmile:
    """The functionals of one feature set over an utterance: an `AudioExtractor`.

    Nothing is measured of silence (below -60 dB of full scale, RMS) and of less than 70 ms. Samples beyond
    full scale are clipped.

    Args:
        feature_set: one of `FEATURE_SETS`

    Raises:
        FeatureError: there is no such set, or openSMILE is not installed.
    """

    def __init__(self, feature_set: str) -> None:
        if feature_set not in FEATURE_SETS:
            by_case = {name.lower(): name for name in FEATURE_SETS}
            near = difflib.get_close_matches(feature_set.lower(), by_case, n=1, cutoff=0.5)
            hint = f"did you mean {by_case[near[0]]!r}?" if near else f"there are {', '.join(FEATURE_SETS)}"
            raise FeatureError(f"openSMILE has no feature set {feature_set!r}: {hint}")
        with needed(f"{LICENCE} opensmile/{feature_set}", "mmerc[opensmile]", FeatureError):
            import opensmile
        self.feature_set = feature_set
        self._version = str(opensmile.__version__)
        self._smile = opensmile.Smile(
            opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals, sampling_rate=SAMPLE_RATE
        )
        self.names = tuple(str(name) for name in self._smile.feature_names)

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the values depend on; releases of openSMILE have changed values."""
        return {
            "kind": "opensmile",
            "version": 1,
            "sample_rate": SAMPLE_RATE,
            "feature_set": self.feature_set,
            "level": "functionals",
            "opensmile": self._version,
        }

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return len(self.names)

    def __call__(self, samples: Samples) -> Measured:
        """Measure one utterance (S,); the numbers are in the order of `names`.

        Raises:
            FeatureError: the samples are not one channel of finite numbers.
        """
        reason = why_not_measured(samples, SHORTEST)
        if reason:
            return Measured(None, reason)
        # The package turns samples into 16-bit integers, where 1.0 would wrap around to -1.0.
        values = self._smile(np.clip(samples, -1, 1 - 2**-15, dtype=np.float32), SAMPLE_RATE)
        flat = np.asarray(values, dtype=np.float32).ravel()
        return Measured(flat) if np.isfinite(flat).all() else Measured(None, "not finite")
