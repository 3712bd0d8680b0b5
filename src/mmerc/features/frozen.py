"""Frozen text features: the vectors of a corpus, computed once by an encoder that is not trained."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from mmerc.corpus import Features
from mmerc.errors import FeatureError
from mmerc.features import pretrained
from mmerc.features.packing import Window, split_blocks
from mmerc.features.text import Scope, TextEncoder, TextRecipe, first_line


def encode(
    encoder: TextEncoder,
    dialogues: Sequence[Sequence[str]],
    progress: Callable[[int], None] | None = None,
    batch_tokens: int = 2048,
) -> Features:
    """Compute frozen text features, on the encoder's device and without dropout.

    Args:
        encoder: the encoder; its mode is as before afterwards.
        dialogues: texts of dialogues × utterances, N utterances in all.
        progress: called with the number of utterances done so far, at last with N.
        batch_tokens: tokens that are read at once, padding included; at least one window is.

    Returns:
        One row per utterance in the order given; `present` is False for texts without tokens.

    Raises:
        FeatureError: the encoder gives NaN or infinity.
    """
    ids = encoder.tokenize([text for utterances in dialogues for text in utterances])
    texts = iter(ids)
    layout = [[next(texts) for _ in utterances] for utterances in dialogues]
    scopes = encoder.scopes
    present = np.array([bool(tokens) for tokens in ids], dtype=np.bool_)
    values = np.zeros((len(ids), len(scopes), encoder.part), dtype=np.float32)
    device, training = next(encoder.parameters()).device, encoder.training
    report = progress or (lambda _: None)
    done = float(len(ids) - int(present.sum()))  # texts without tokens need no work
    report(int(done))
    encoder.eval()
    try:
        with torch.inference_mode():
            for part, scope in enumerate(scopes):
                for batch in _buckets(list(encoder.windows(layout, scope)), encoder.length, batch_tokens):
                    rows = [row for window in batch for row in window.rows]
                    places = iter(range(len(rows)))
                    local = [w._replace(rows=[next(places) for _ in w.rows]) for w in batch]
                    block = encoder.collate(local).to(device)
                    values[rows, part] = encoder.pooled([block], len(rows)).cpu().numpy()
                    done += len(rows) / len(scopes)
                    report(round(done))
    finally:
        encoder.train(training)
    if not np.isfinite(values).all():
        raise FeatureError(f"text encoder {encoder.recipe['encoder']!r} gives NaN or infinity")
    return Features(values.reshape(len(ids), encoder.width), present, encoder.recipe)


def frozen_encoder(
    name: str,
    *,
    layers: Sequence[int] | None = None,
    scope: Scope | None = None,
    window: int | None = None,
    utterance_limit: int = 256,
    revision: str | None = None,
) -> TextEncoder:
    """Load an encoder for frozen features, with the layers and the scope that suit it unless they are given.

    `minilm` takes layers 2, 4 and 6 of the utterance in its dialogue and alone; every other encoder what the
    paper does: the last layer, inside the dialogue.

    Raises:
        FeatureError: as `TextEncoder.load`.
    """
    suited = name == pretrained.EMBEDDED and layers is None and scope is None
    return TextEncoder.load(
        name,
        window=window,
        utterance_limit=utterance_limit,
        revision=revision,
        layers=(2, 4, 6) if suited else layers,
        scope="both" if suited else scope or "dialogue",
    )


def encoder_for(recipe: dict[str, Any], name: str | None = None) -> TextEncoder:
    """Load the encoder that a stored recipe names.

    Args:
        recipe: a `TextEncoder.recipe`.
        name: where that encoder lies here, if it is not where the recipe says.

    Raises:
        FeatureError: the recipe is none of a text encoder, the encoder cannot be loaded, or what was
            loaded has another recipe, such as other weights under the same name.
    """
    try:
        wanted = TextRecipe.model_validate(recipe)
    except ValidationError as error:
        raise FeatureError(f"no text encoder has the recipe {recipe} ({first_line(error)})") from None
    encoder = TextEncoder.load(
        name or wanted.encoder,
        window=wanted.window,
        utterance_limit=wanted.utterance_limit,
        layers=wanted.layers,
        scope=wanted.scope,
        revision=None if name else wanted.revision,
    )
    moved: dict[str, Any] = {"encoder": wanted.encoder, "revision": wanted.revision} if name else {}
    found = encoder._recipe.model_copy(update=moved)
    if found != wanted:
        raise FeatureError(
            f"text encoder {name or wanted.encoder!r} is not the one that made the features: they follow "
            f"{wanted.model_dump(exclude_none=True)}, it has {encoder.recipe}"
        )
    encoder._recipe = wanted
    return encoder


def _buckets(
    windows: Sequence[Window], length: Callable[[Window], int], budget: int
) -> Iterator[list[Window]]:
    """Yield windows of like length together, longest first, so many that the padded batch fits the budget."""
    order = sorted(windows, key=length, reverse=True)
    start = 0
    while start < len(order):
        size = max(1, budget // length(order[start]))
        bucket = order[start : start + size]
        for block in split_blocks([length(window) for window in bucket]):
            yield [bucket[i] for i in block]
        start += size
