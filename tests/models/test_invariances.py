"""What holds for every network in evaluation mode, whatever its preset or ablation."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import (
    ABLATIONS,
    DFERC_PRESETS,
    WIDTHS,
    assert_losses,
    assert_same,
    judge,
    make_batch,
    make_network,
    modalities_of,
    networks_of,
    take,
    total,
)
from mmerc.batch import Batch
from mmerc.models import MODELS, resolve
from mmerc.models.base import Network
from mmerc.pipeline import build_pipeline

DFERC = [("df-erc", preset, {}) for preset in DFERC_PRESETS]
DFERC_ABLATED = [("df-erc", p, {**ABLATIONS[name]}) for p in DFERC_PRESETS for name in ABLATIONS]
OTHERS = [(model, preset, {}) for model in MODELS if model != "df-erc" for preset in networks_of(model)]
ALL = [*DFERC_ABLATED, *OTHERS]
PLAIN = [*DFERC, *OTHERS]
OWN_LOSS = [
    ("cfn-esa", "official-meld"),
    *(("mm-dfn", p) for p in MODELS["mm-dfn"].presets),
]  # see their tests
CROSS_ENTROPY = [case for case in PLAIN if case[:2] not in OWN_LOSS]
WITH_CAUSAL_MODE = [
    (model, next(iter(entry.presets)), {"causal": True})
    for model, entry in MODELS.items()
    if "causal" in [field.name for field in fields(entry.config)]
]
LENGTHS = [3, 1, 6, 2]


def build(model: str, preset: str | None, overrides: dict[str, Any], **more: Any) -> Network:
    return make_network(model, preset, **more, **overrides).eval()


@pytest.mark.parametrize(("model", "preset", "overrides"), WITH_CAUSAL_MODE)
def test_a_causal_network_does_not_see_later_utterances(
    model: str, preset: str | None, overrides: dict[str, Any]
) -> None:
    network = build(model, preset, overrides)
    batch = make_batch([5, 1, 6], modalities_of(model), missing=0.2)
    whole = judge(network, batch)
    step = torch.cat([torch.arange(n) for n in batch.lengths.tolist()])
    for now in range(6):
        past = step <= now
        cut = [min(n, now + 1) for n in batch.lengths.tolist()]
        early = Batch(
            features={m: x[past] for m, x in batch.features.items()},
            present=batch.present[past],
            lengths=torch.tensor(cut),
            speakers=batch.speakers[past],
        )
        assert_same(whole, judge(network, early), past, 1e-6)


@pytest.mark.parametrize(("model", "preset", "overrides"), ALL)
def test_dialogues_do_not_see_each_other(model: str, preset: str | None, overrides: dict[str, Any]) -> None:
    network = build(model, preset, overrides)
    batch = make_batch(LENGTHS, modalities_of(model), missing=0.2)
    whole = judge(network, batch)
    stops = batch.lengths.cumsum(0)
    for d, (length, stop) in enumerate(zip(LENGTHS, stops.tolist(), strict=True)):
        assert_same(whole, judge(network, take(batch, [d])), torch.arange(stop - length, stop), 1e-6)


@pytest.mark.parametrize(("model", "preset", "overrides"), PLAIN)
@settings(max_examples=4)
@given(data=st.data(), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_the_order_of_dialogues_changes_nothing(
    model: str,
    preset: str | None,
    overrides: dict[str, Any],
    data: st.DataObject,
    lengths: list[int],
    seed: int,
) -> None:
    network = build(model, preset, overrides)
    batch = make_batch(lengths, modalities_of(model), seed=seed, missing=0.2, unlabelled=0.2)
    order = data.draw(st.permutations(range(len(lengths))))
    rows = torch.cat([torch.arange(sum(lengths)).split(lengths)[d] for d in order])
    whole, shuffled = judge(network, batch), judge(network, take(batch, order))
    assert_same(whole, shuffled, rows, 1e-6)
    assert_losses(shuffled.losses, whole.losses)


@pytest.mark.parametrize(("model", "preset", "overrides"), PLAIN)
def test_the_order_of_modalities_changes_nothing(
    model: str, preset: str | None, overrides: dict[str, Any]
) -> None:
    batch = make_batch(LENGTHS, modalities_of(model), missing=0.2)
    backwards = sorted(modalities_of(model), reverse=True)
    one = build(model, preset, overrides)
    other = build(model, preset, overrides, modalities=backwards)
    other.load_state_dict(one.state_dict())
    flipped = batch._replace(features={m: batch.features[m] for m in backwards})
    assert_same(one(batch), other(flipped), tolerance=0)
    assert_losses(judge(other, flipped).losses, judge(one, batch).losses, 0)


@pytest.mark.parametrize(("model", "preset", "overrides"), ALL)
def test_absent_vectors_are_not_looked_at(model: str, preset: str | None, overrides: dict[str, Any]) -> None:
    network = build(model, preset, overrides)
    batch = make_batch(LENGTHS, modalities_of(model), missing=0.4)
    garbage = {
        m: torch.where(batch.present[:, [column]], x, torch.full_like(x, 1e3))
        for column, (m, x) in enumerate(batch.features.items())
    }
    clean, dirty = judge(network, batch), judge(network, batch._replace(features=garbage))
    assert_same(clean, dirty, tolerance=0)
    assert_losses(dirty.losses, clean.losses, 0)
    if clean.contributions is not None:
        assert (clean.contributions[~batch.present] == 0).all()
        assert (clean.contributions[batch.present] > 0).all()


@pytest.mark.parametrize(
    ("model", "preset", "overrides", "training"),
    [*((*case, False) for case in ALL), *((*case, True) for case in PLAIN)],
)
def test_missing_everything_is_finite(
    model: str, preset: str | None, overrides: dict[str, Any], training: bool
) -> None:
    network = build(model, preset, overrides).train(training)
    batch = make_batch([2, 1], modalities_of(model))
    for hidden in (slice(0, 1), slice(2, 3), slice(0, 3)):
        present = batch.present.clone()
        present[hidden] = False
        network.zero_grad()
        output = judge(network, batch._replace(present=present))
        total(output).backward()
        assert torch.isfinite(output.logits).all()
        assert all(torch.isfinite(loss) for loss in output.losses.values())
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("kept", [(0, 2), (1,)])
@pytest.mark.parametrize(("model", "preset", "overrides"), DFERC_ABLATED)
def test_a_modality_that_is_absent_everywhere_might_as_well_not_exist(
    model: str, preset: str, overrides: dict[str, Any], kept: tuple[int, ...]
) -> None:
    names = [sorted(WIDTHS)[column] for column in kept]
    large, small = build(model, preset, overrides), build(model, preset, overrides, modalities=names)
    state = large.state_dict()
    columns = list(kept)
    small.load_state_dict(
        {
            k: state[k] if state[k].shape == v.shape else state[k][columns]
            for k, v in small.state_dict().items()
        }
    )
    batch = make_batch(LENGTHS)
    present = torch.zeros_like(batch.present)
    present[:, columns] = True
    whole = judge(large, batch._replace(present=present))
    fewer = {m: batch.features[m] for m in names}
    part = judge(small, batch._replace(features=fewer, present=torch.ones(sum(LENGTHS), len(kept)).bool()))
    assert whole.contributions is not None
    assert_same(whole._replace(contributions=whole.contributions[:, columns]), part)
    if len(kept) == 1:  # the small network has no L_cl (A26)
        whole.losses.pop("contrastive", None), part.losses.pop("contrastive", None)
    assert_losses(part.losses, whole.losses)


@pytest.mark.parametrize(("model", "preset", "overrides"), PLAIN)
def test_labels_do_not_influence_predictions(
    model: str, preset: str | None, overrides: dict[str, Any]
) -> None:
    network = build(model, preset, overrides)
    batch = make_batch(LENGTHS, modalities_of(model))
    assert batch.labels is not None
    before = {k: v.clone() for k, v in network.state_dict().items()}
    plain = judge(network, batch)
    assert_same(plain, judge(network, batch._replace(labels=batch.labels.flip(0))), tolerance=0)
    unlabelled = judge(network, batch._replace(labels=None))
    assert_same(plain, unlabelled, tolerance=0)
    assert unlabelled.losses == {}
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(("model", "preset", "overrides"), PLAIN)
def test_unlabelled_utterances_are_context_but_no_target(
    model: str, preset: str | None, overrides: dict[str, Any]
) -> None:
    network = build(model, preset, overrides)
    batch = make_batch(LENGTHS, modalities_of(model), unlabelled=1.0)
    output = judge(network, batch)
    assert torch.isfinite(output.logits).all()
    supervised = {name: loss for name, loss in output.losses.items() if name != "contrastive"}
    assert_losses(supervised, dict.fromkeys(supervised, 0.0))


@pytest.mark.parametrize(("model", "preset", "overrides"), ALL)
def test_shapes(model: str, preset: str | None, overrides: dict[str, Any]) -> None:
    network = build(model, preset, overrides)
    output = judge(network, make_batch([1], modalities_of(model)))
    assert output.logits.shape == (1, 3)
    assert all(loss.shape == () for loss in output.losses.values())
    if output.contributions is not None:
        assert output.contributions.shape == (1, len(modalities_of(model)))
    if output.context_weight is not None:
        assert output.context_weight.shape == (1,)
    for value in output.log.values():
        assert not value.requires_grad


@pytest.mark.parametrize(("model", "preset", "overrides"), CROSS_ENTROPY)
def test_class_weights_reach_the_loss_but_not_the_checkpoint(
    model: str, preset: str | None, overrides: dict[str, Any]
) -> None:
    weights = torch.tensor([1.0, 5.0, 0.2])
    plain, weighted = build(model, preset, overrides), build(model, preset, overrides, class_weights=weights)
    batch = make_batch(LENGTHS, modalities_of(model))
    assert batch.labels is not None
    expected = torch.nn.functional.cross_entropy(plain(batch).logits, batch.labels, weights)
    torch.testing.assert_close(judge(weighted, batch).losses["emotion"], expected)
    assert "class_weights" not in weighted.state_dict()


def test_the_network_is_built_from_the_resolved_config() -> None:
    run = resolve("df-erc", {"network": {"hidden": 7}})
    pipeline = build_pipeline(run, WIDTHS, 4)
    assert {p.shape[0] for n, p in pipeline.network.named_parameters() if n.startswith("projection")} == {7}
    assert pipeline.network.num_classes == 4
