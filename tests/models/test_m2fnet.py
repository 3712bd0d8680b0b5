"""M2FNet recomputed utterance by utterance from the equations, and pinned numbers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_loops import attend, feed_forward, norm, self_attention
from helpers import WIDTHS, assert_losses, judge, make_batch, make_network, take
from loops import State, doubled, linear, rows_of_dialogues
from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.models import resolve
from mmerc.models.base import Network

LENGTHS = [3, 1, 4]
ALL = tuple(WIDTHS)
Rows = list[Tensor]  # of one dialogue


def encoder(state: State, name: str, xs: Rows, there: Sequence[bool], layers: int) -> Rows:
    """The transformer encoders of one modality, a skip around each."""
    for number in range(layers):
        layer = f"{name}.layers.{number}"
        attended = self_attention(state, f"{layer}.attention", xs, there)
        encoded = [
            norm(state, f"{layer}.norm", y + feed_forward(state, f"{layer}.feed_forward", y))
            for y in attended
        ]
        xs = [x + y for x, y in zip(xs, encoded, strict=True)]
    return [x * flag for x, flag in zip(xs, there, strict=True)]


def fuse(
    state: State, name: str, text: Rows, others: dict[str, Rows], there: dict[str, list[bool]], values: str
) -> Rows:
    """One layer of attention fusion."""
    fused = []
    for query in text:
        parts = [query]
        for m, rows in others.items():
            source = text if values == "text" else rows
            usable = [a and (b or values == "other") for a, b in zip(there[m], there["text"], strict=True)]
            keys = [x for x, flag in zip(rows, usable, strict=True) if flag]
            mixed = attend(
                state,
                f"{name}.attention.{m}",
                query,
                keys,
                [x for x, f in zip(source, usable, strict=True) if f],
            )
            parts.append(mixed if keys else torch.zeros_like(mixed))
        fused.append(linear(state, f"{name}.merge.0", torch.cat(parts)).clamp(min=0))
    return fused


def logits_by_loops(network: Network, batch: Batch) -> Tensor:
    state, config = doubled(network), network.config
    logits = []
    for rows in rows_of_dialogues(batch):
        streams, there = {}, {}
        for column, m in enumerate(network.modalities):
            there[m] = [bool(batch.present[i, column]) for i in rows]
            raw = [
                linear(state, f"projection.linear.{m}", batch.features[m][i].double()) * flag
                for i, flag in zip(rows, there[m], strict=True)
            ]
            streams[m] = encoder(state, f"encoders.{m}", raw, there[m], config.encoder_layers)
        if "text" in streams and len(streams) > 1:
            others = {m: x for m, x in streams.items() if m != "text"}
            for number in range(config.fusion_layers):
                text = fuse(state, f"fusion.{number}", streams["text"], others, there, config.fusion_values)
                streams["text"] = text
            streams["text"] = [x * flag for x, flag in zip(streams["text"], there["text"], strict=True)]
        for k in range(len(rows)):
            joined = torch.cat([streams[m][k] for m in network.modalities])
            logits.append(feed_forward(state, "classifier", joined))
    return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("values", ["text", "other"])
@pytest.mark.parametrize("modalities", [ALL, ("audio", "text"), ("audio", "visual"), ("text",)], ids="-".join)
def test_equals_plain_loops(modalities: tuple[str, ...], values: str) -> None:
    network = make_network("m2fnet", modalities=modalities, fusion_values=values)
    batch = make_batch(LENGTHS, modalities, missing=0.3, unlabelled=0.2, seed=1)
    output = judge(network, batch)
    logits = logits_by_loops(network, batch)
    torch.testing.assert_close(output.logits, logits.float(), rtol=0, atol=1e-5)
    known = batch.labels >= 0
    assert_losses(
        output.losses, {"emotion": torch.nn.functional.cross_entropy(logits[known], batch.labels[known])}
    )


@torch.no_grad()
def test_others_steer_the_fusion_of_text_but_only_text_is_mixed() -> None:
    network = make_network("m2fnet", fusion_layers=1).eval()
    layer, d = network.fusion[0], network.config.hidden
    mixed: list[Tensor] = []
    layer.merge.register_forward_pre_hook(lambda _, inputs: mixed.append(inputs[0]))
    for attention in layer.attention.values():
        attention.value.weight.zero_()  # no text is mixed then, whatever the others say
    batch = make_batch([5])
    network(batch)
    network(batch._replace(features={**batch.features, "audio": batch.features["audio"] + 1}))
    torch.testing.assert_close(mixed[0][:, d:], mixed[1][:, d:], rtol=0, atol=1e-6)


@torch.no_grad()
def test_without_causal_mode_the_order_of_utterances_changes_nothing() -> None:
    batch, order = make_batch([5]), torch.tensor([3, 0, 4, 1, 2])
    turned = batch._replace(
        features={m: x[order] for m, x in batch.features.items()}, present=batch.present[order], labels=None
    )
    for causal in (False, True):
        network = make_network("m2fnet", causal=causal).eval()
        same = torch.allclose(network(batch).logits[order], network(turned).logits, atol=1e-5)
        assert same != causal


@pytest.mark.parametrize("modalities", [ALL, ("audio", "visual"), ("text",)], ids="-".join)
def test_every_parameter_learns(modalities: tuple[str, ...]) -> None:
    network = make_network("m2fnet", modalities=modalities, hidden=8, classifier_hidden=8)
    judge(network, make_batch(LENGTHS, modalities)).losses["emotion"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # The bias of the keys adds the same to every score of a softmax.
        assert parameter.grad.any() or name.endswith("key.bias"), name


@torch.no_grad()
def test_an_utterance_without_text_keeps_its_other_streams() -> None:
    network, batch = make_network("m2fnet").eval(), make_batch([1, 1])
    present = batch.present.clone()
    present[:, 1] = False
    hidden = network(batch._replace(present=present))
    assert not torch.allclose(hidden.logits[0], hidden.logits[1])
    alone = network(take(batch._replace(present=present), [1]))
    torch.testing.assert_close(alone.logits, hidden.logits[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 130}, "hidden must be a multiple of network.heads"),
        ({"fusion_layers": 0}, "fusion_layers must be above 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"network.{message}"):
        resolve("m2fnet", {"network": settings})
