"""From raw features (or tokens) to an `Output`: what a checkpoint holds."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmerc.batch import Batch, length_buckets
from mmerc.config import RunConfig
from mmerc.corpus import slice_rows
from mmerc.examples import CHUNK, Examples
from mmerc.features.text import TextEncoder
from mmerc.models import build_network
from mmerc.models.base import Network, Output


class Inference(NamedTuple):
    """Predictions for the utterances of some dialogues, in the order asked for."""

    probabilities: npt.NDArray[np.float32]  # (N, K)
    contributions: npt.NDArray[np.float32] | None  # (N, M)
    context_weight: npt.NDArray[np.float32] | None  # (N,)


class Standardizer(nn.Module):
    """(x − mean) / sd per feature, with the training split's statistics, clipped to ±`clip` sd.

    A feature that never varies maps to 0. Before `fit` it is the identity.
    """

    def __init__(self, widths: Mapping[str, int], clip: float) -> None:
        super().__init__()
        self.clip = clip
        for name, width in sorted(widths.items()):
            self.register_buffer(f"mean_{name}", torch.zeros(width))
            self.register_buffer(f"scale_{name}", torch.ones(width))

    def fit(self, name: str, chunks: Iterable[Tensor]) -> None:
        """Take mean and sd over the rows of all `chunks`, (·, d) each; of no rows, none.

        The chunks are joined as by Chan, Golub and LeVeque (1983): a table may be larger than memory.
        """
        count = 0
        mean = variance = size = torch.zeros((), dtype=torch.float64)
        for x in (chunk.double() for chunk in chunks if len(chunk)):
            count += len(x)
            share = len(x) / count  # 1 for the first chunk, whose figures are taken as they are
            step = x.mean(dim=0) - mean
            within = x.var(dim=0, correction=0) - variance
            variance = variance + share * within + share * (1 - share) * step.square()
            mean = mean + share * step
            size = size + share * (x.abs().mean(dim=0) - size)
        if not count:
            return
        sd = variance.sqrt()
        # Below this an sd is rounding noise of a constant column.
        varies = sd > 1e-6 * size.clamp(min=1e-6)
        self.get_buffer(f"mean_{name}").copy_(mean)
        self.get_buffer(f"scale_{name}").copy_(torch.where(varies, 1.0 / sd, 0.0))

    def forward(self, name: str, values: Tensor) -> Tensor:
        """Return the standardised features of one modality, (N, d)."""
        scaled = (values - self.get_buffer(f"mean_{name}")) * self.get_buffer(f"scale_{name}")
        return scaled.clamp(-self.clip, self.clip)


class Pipeline(nn.Module):
    """Standardised features, or a text encoder trained along, in front of a network.

    The same networks serve both text tiers (frozen vectors, end to end): they are wrapped, not copied.
    """

    def __init__(
        self, network: Network, widths: Mapping[str, int], encoder: TextEncoder | None, clip: float | None
    ) -> None:
        super().__init__()
        self.network = network
        self.encoder = encoder
        self.standardizer = None if clip is None else Standardizer(widths, clip)

    def fit(self, examples: Examples, dialogues: npt.NDArray[np.int64]) -> None:
        """Take the standardising statistics from the given dialogues (of the training split).

        Those of a text encoder that is trained along are taken once, before it has learnt anything.
        """
        if self.standardizer is None:
            return
        if self.encoder is not None and examples.texts is not None:
            self._fit_text(self.standardizer, examples, dialogues)
        inside = torch.zeros(len(examples.present), dtype=torch.bool)
        inside[torch.from_numpy(slice_rows(examples.offsets, dialogues))] = True
        for column, name in enumerate(self.network.modalities):
            if name in examples.features:
                rows = (inside & examples.present[:, column]).nonzero()[:, 0]
                chunks = (examples.vectors(name, some) for some in torch.split(rows, CHUNK))
                self.standardizer.fit(name, chunks)

    @torch.no_grad()
    def _fit_text(
        self, standardizer: Standardizer, examples: Examples, dialogues: npt.NDArray[np.int64]
    ) -> None:
        assert self.encoder is not None
        if was_training := self.encoder.training:
            self.encoder.eval()
        device = next(self.parameters()).device
        column = self.network.modalities.index("text")
        lengths = examples.offsets[dialogues + 1] - examples.offsets[dialogues]
        vectors, present = [], []
        for positions in length_buckets(lengths, 8):
            batch = examples.batch(dialogues[positions]).to(device)
            assert batch.tokens is not None
            vectors.append(self.encoder(batch.tokens, len(batch.present)))
            present.append(batch.present[:, column])
        if was_training:
            self.encoder.train()
        standardizer.fit("text", torch.split(torch.cat(vectors)[torch.cat(present)], CHUNK))

    def forward(self, batch: Batch) -> Output:
        """Return the network's output for a batch of raw features or tokens."""
        output: Output = self.network(self.prepare(batch))
        return output

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch as the network reads it: encoded, standardised, zero where absent."""
        features = batch.features
        if self.encoder is not None and batch.tokens is not None:
            features = {**features, "text": self.encoder(batch.tokens, len(batch.present))}
        if self.standardizer is not None:
            features = {m: self.standardizer(m, x) for m, x in features.items()}
        # What is absent stays zero, whatever standardising made of it; NaN · 0 would be NaN.
        features = {
            m: features[m].masked_fill(~batch.present[:, column, None], 0.0)
            for column, m in enumerate(self.network.modalities)
        }
        return batch._replace(features=features)

    @torch.inference_mode()
    def infer(
        self,
        examples: Examples,
        dialogues: npt.NDArray[np.int64],
        batch_size: int = 32,
        advance: Callable[[int], None] | None = None,
    ) -> Inference:
        """Predict the given dialogues in evaluation mode; labels are not looked at.

        Args:
            examples: where the dialogues are
            dialogues: (D,) dialogue numbers
            batch_size: dialogues at a time; changes nothing but speed and memory
            advance: called with the number of dialogues done
        """
        if was_training := self.training:
            self.eval()
        device = next(self.parameters()).device
        lengths = examples.offsets[dialogues + 1] - examples.offsets[dialogues]
        pieces: list[tuple[npt.NDArray[np.int64], Output]] = []
        for positions in length_buckets(lengths, batch_size):
            batch = examples.batch(dialogues[positions])._replace(labels=None).to(device)
            rows = slice_rows(np.r_[0, np.cumsum(lengths)], positions)
            pieces.append((rows, self(batch)))
            if advance is not None:
                advance(len(positions))
        if was_training:
            self.train()
        order = np.argsort(np.concatenate([rows for rows, _ in pieces]))

        def gather(field: Callable[[Output], Tensor | None]) -> npt.NDArray[np.float32] | None:
            parts = [field(output) for _, output in pieces]
            if any(part is None for part in parts):
                return None
            return torch.cat([p.float() for p in parts if p is not None]).cpu().numpy()[order]

        probabilities = gather(lambda o: o.logits.float().softmax(dim=-1))
        assert probabilities is not None
        return Inference(probabilities, gather(lambda o: o.contributions), gather(lambda o: o.context_weight))

    def parameter_groups(self) -> Iterator[tuple[str, nn.Parameter, bool]]:
        """Yield (name, parameter, belongs to the text encoder) for every trained parameter."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, parameter, name.startswith("encoder.")


def build_pipeline(
    run: RunConfig,
    widths: Mapping[str, int],
    num_classes: int,
    encoder: TextEncoder | None = None,
    class_weights: Tensor | None = None,
) -> Pipeline:
    """Build the untrained pipeline of a resolved config; `widths` maps each modality to d_m.

    Raises:
        ConfigError: a setting is not allowed, or the sizes are beyond torch or the memory.
    """
    network = build_network(run, widths, num_classes, class_weights)
    clip = run.training.feature_clip if run.training.standardize else None
    return Pipeline(network, widths, encoder, clip)
