"""Whether a preset suits the labels of a corpus."""

from mmerc.config import RunConfig
from mmerc.corpora.peer_layouts import LABELS
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError
from mmerc.models import find


def corpus_of(preset: str | None) -> str | None:
    """Return the corpus that a preset such as `official-meld` is for; None: any."""
    name = (preset or "").rpartition("-")[2]
    return name if name in LABELS else None


def require_fitting_labels(run: RunConfig, corpus: Corpus) -> None:
    """Refuse a preset for one corpus on the labels of the other, or where it weighs labels that are missing.

    On labels that are neither's the sizes and losses of a paper may be tried: its name says whose they are.

    Raises:
        ConfigError: the preset does not fit; one that does is named.
    """
    meant = corpus_of(run.preset)
    if meant is None:
        return
    found = next((name for name, labels in LABELS.items() if set(labels) == set(corpus.labels)), None)
    own = f"{meant.upper()} ({', '.join(LABELS[meant])})"
    whose = f"preset {run.preset} of {run.model} is for the labels of {own}"
    weights = run.training.class_weights
    if found is not None and found != meant:
        raise ConfigError(f"{whose}; {corpus.name} has those of {found.upper()}: take {_instead(run, found)}")
    if found is None and isinstance(weights, dict) and set(weights) == set(LABELS[meant]):
        raise ConfigError(
            f"{whose}, which it weighs; {corpus.name} has {', '.join(corpus.labels)}: take "
            f"{_instead(run, None)}, or set training.class_weights (null: all weigh the same)"
        )


def _instead(run: RunConfig, corpus: str | None) -> str:
    """Return the preset of the same kind for a corpus, or all that are for it or for any."""
    fitting = [name for name in find(run.model).presets if corpus_of(name) in (corpus, None)]
    kind = str(run.preset).rpartition("-")[0]
    return f"{kind}-{corpus}" if f"{kind}-{corpus}" in fitting else " or ".join(fitting)
