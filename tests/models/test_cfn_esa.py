"""CFN-ESA recomputed utterance by utterance from the equations, and the checks that are special to it."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_loops import attend, feed_forward, norm, self_attention
from helpers import CLASSES, WIDTHS, assert_losses, fill_with_ramp, judge, make_batch, make_network
from loops import State, doubled, linear, ramp_batch, recurrence, rows_of_dialogues
from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.models import MODELS, resolve
from mmerc.models.base import Network

LENGTHS = [3, 1, 4]
Rows = list[Tensor]  # of one dialogue


def recurrent_encoder(state: State, copy: int, xs: Rows, layers: int) -> Rows:
    """RUME over one modality of one dialogue."""
    for number in range(layers):
        name = f"recurrent.copies.{copy}.{number}"
        out = []
        for x, hidden in zip(xs, recurrence(state, f"{name}.gru.rnn", xs), strict=True):
            z = norm(state, f"{name}.gru_norm", x + linear(state, f"{name}.out", hidden))
            q = feed_forward(state, f"{name}.feed_forward", z)
            out.append(norm(state, f"{name}.output_norm", x + z + q))
        xs = out
    return xs


def cross_layer(
    state: State, name: str, x: dict[str, Rows], there: dict[str, list[bool]], symmetric: bool
) -> dict[str, Rows]:
    """One layer of ACME over one dialogue."""
    s = {m: self_attention(state, f"{name}.own.{m}", x[m], there[m]) for m in x}
    result = {}
    for m in x:
        primary = symmetric or m == "text"
        sources = [o for o in x if o != m and (primary or o == "text")]
        rows = []
        for i, old in enumerate(x[m]):
            taken = []
            for o in sources:
                keys = [k for k, flag in zip(s[o], there[o], strict=True) if flag]
                mixed = attend(state, f"{name}.cross.{m}.attention.{o}", s[m][i], keys, keys)
                taken.append(mixed if keys else torch.zeros_like(mixed))
            c = sum(taken, torch.zeros_like(old))
            if primary and sources:
                c = linear(state, f"{name}.cross.{m}.merge", torch.cat(taken)).clamp(min=0)
            z = norm(state, f"{name}.cross.{m}.attention_norm", old + s[m][i] + c)
            f = feed_forward(state, f"{name}.cross.{m}.feed_forward", z)
            out = norm(state, f"{name}.cross.{m}.output_norm", old + z + f)
            rows.append(out if there[m][i] else torch.zeros_like(out))
        result[m] = rows
    return result


def fused_rows(network: Network, batch: Batch) -> Rows:
    """The vector h of every utterance."""
    state, config = doubled(network), network.config
    h = []
    for rows in rows_of_dialogues(batch):
        x, there = {}, {}
        for column, m in enumerate(network.modalities):
            there[m] = [bool(batch.present[i, column]) for i in rows]
            raw = [
                linear(state, f"projection.linear.{m}", batch.features[m][i].double()) * flag
                for i, flag in zip(rows, there[m], strict=True)
            ]
            copy = column if config.recurrence == "separate" else 0
            layers = 0 if config.recurrence == "none" else config.recurrent_layers
            encoded = recurrent_encoder(state, copy, raw, layers)
            x[m] = [v * flag for v, flag in zip(encoded, there[m], strict=True)]
        for number in range(0 if config.cross == "none" else config.cross_layers):
            x = cross_layer(state, f"cross.{number}", x, there, config.cross == "symmetric")
        for k in range(len(rows)):
            h.append(linear(state, "fusion.0", torch.cat([x[m][k] for m in network.modalities])).clamp(min=0))
    return h


def shift_loss(network: Network, h: Rows, batch: Batch) -> tuple[float, float]:
    """L_shift and ρ, pair by pair, when this batch is all that was seen."""
    state, config, labels = doubled(network), network.config, batch.labels.tolist()
    pairs = [
        (i, j)
        for rows in rows_of_dialogues(batch)
        for i, j in itertools.product(rows, repeat=2)
        if labels[i] >= 0 and labels[j] >= 0 and (config.include_diagonal or i != j)
    ]
    rho = sum(labels[i] != labels[j] for i, j in pairs) / len(pairs)
    share = rho if config.shift_share is None else config.shift_share
    upper = lower = 0.0
    for i, j in pairs:
        inner = linear(state, "shift.first", h[i]) + linear(state, "shift.second", h[j])
        shifted = int(labels[i] != labels[j])
        weight = 1 / (2 * share) if shifted else 1 / (2 * (1 - share))
        surprise = -float(torch.log_softmax(linear(state, "shift.out", inner.clamp(min=0)), dim=0)[shifted])
        upper, lower = upper + weight * surprise, lower + weight
    return config.shift_weight * upper / lower, share


def ragged_batch(seed: int, modalities: Sequence[str] = tuple(WIDTHS)) -> Batch:
    return make_batch(LENGTHS, modalities, seed=seed, missing=0.3, unlabelled=0.2)


VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "whole": (("audio", "text", "visual"), {}),
    "separate RUME": (("audio", "text", "visual"), {"recurrence": "separate", "include_diagonal": False}),
    "without RUME": (("audio", "text", "visual"), {"recurrence": "none", "shift_share": 0.4}),
    "without ACME": (("audio", "text", "visual"), {"cross": "none"}),
    "symmetric ACME": (("audio", "text", "visual"), {"cross": "symmetric", "cross_layers": 1}),
    "without text": (("audio", "visual"), {}),
    "symmetric, without text": (("audio", "visual"), {"cross": "symmetric"}),
    "text and audio": (("audio", "text"), {}),
    "text": (("text",), {}),
}


@torch.no_grad()
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_plain_loops(variant: str, recompute: bool) -> None:
    modalities, overrides = VARIANTS[variant]
    overrides = {**overrides, "recompute": recompute}
    network = make_network("cfn-esa", modalities=modalities, **overrides)
    batch = ragged_batch(1, modalities)
    output = judge(network, batch)
    h = fused_rows(network, batch)
    logits = torch.stack([linear(doubled(network), "classifier", x) for x in h])
    torch.testing.assert_close(output.logits, logits.float(), rtol=0, atol=1e-5)
    known = [i for i, label in enumerate(batch.labels.tolist()) if label >= 0]
    emotion = torch.nn.functional.cross_entropy(logits[known], batch.labels[known])
    shift, rho = shift_loss(network, h, batch)
    assert_losses(output.losses, {"emotion": emotion, "shift": shift})
    assert output.log["shift_share"].item() == pytest.approx(rho)


@torch.no_grad()
def test_the_emotion_loss_is_chosen_and_weighted() -> None:
    batch, weights = ragged_batch(2), torch.tensor([1.0, 5.0, 0.2])
    known = [(i, label) for i, label in enumerate(batch.labels.tolist()) if label >= 0]
    for kind in ("focal", "official"):
        network = make_network("cfn-esa", class_weights=weights, emotion_loss=kind, focal_gamma=2.0).eval()
        output = judge(network, batch)
        upper = lower = 0.0
        for i, label in known:
            p = output.logits[i].softmax(dim=0).tolist()
            if kind == "focal":
                value = -((1 - p[label]) ** 2) * math.log(p[label])
            else:
                y = [float(c == label) for c in range(CLASSES)]
                terms = [-((1 - y[c] * math.log(p[c])) ** 2) * math.log(p[c]) for c in range(CLASSES)]
                value = sum(terms) / CLASSES
            upper, lower = upper + float(weights[label]) * value, lower + float(weights[label])
        assert output.losses["emotion"].item() == pytest.approx(upper / lower, rel=1e-5)


def swapped(name: str) -> str:
    return name.replace("audio", "#").replace("visual", "audio").replace("#", "visual")


@torch.no_grad()
def test_audio_and_visual_swapped_with_all_their_weights_change_nothing() -> None:
    widths = {"audio": 4, "text": 6, "visual": 5}
    one = make_network("cfn-esa").eval()
    other = type(one)(one.config, widths, CLASSES).eval()
    d, state = one.config.hidden, {}
    for key, value in one.state_dict().items():
        if key.endswith("text.merge.weight"):  # W_cat over audio, visual
            value = torch.cat([value[:, d:], value[:, :d]], dim=1)
        if key == "fusion.0.weight":  # W_f over audio, text, visual
            value = torch.cat([value[:, 2 * d :], value[:, d : 2 * d], value[:, :d]], dim=1)
        state[swapped(key)] = value
    other.load_state_dict(state)
    batch = ragged_batch(3)
    turned = batch._replace(
        features={m: batch.features[swapped(m)] for m in widths}, present=batch.present[:, [2, 1, 0]]
    )
    torch.testing.assert_close(other(turned).logits, one(batch).logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_text_that_is_absent_everywhere_might_as_well_not_exist() -> None:
    whole, part = (
        make_network("cfn-esa").eval(),
        make_network("cfn-esa", modalities=["audio", "visual"]).eval(),
    )
    d, state = whole.config.hidden, dict(whole.state_dict())
    state["fusion.0.weight"] = torch.cat(
        [state["fusion.0.weight"][:, :d], state["fusion.0.weight"][:, 2 * d :]], dim=1
    )
    part.load_state_dict({k: state[k] for k in part.state_dict()})
    batch = ragged_batch(4)
    present = batch.present.clone()
    present[:, 1] = False
    small = batch._replace(
        features={m: batch.features[m] for m in ("audio", "visual")}, present=present[:, [0, 2]]
    )
    hidden = batch._replace(present=present)
    torch.testing.assert_close(whole(hidden).logits, part(small).logits, rtol=0, atol=1e-6)


def without_gradient(network: Network) -> set[str]:
    return {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}


def is_key_bias(name: str) -> bool:
    return name.endswith("key.bias")  # adds the same to every score of a softmax


def test_every_parameter_learns_and_lesm_only_by_its_own_loss() -> None:
    batch = make_batch(LENGTHS)
    network = make_network("cfn-esa")
    torch.stack([*judge(network, batch).losses.values()]).sum().backward()
    assert all(is_key_bias(name) for name in without_gradient(network))
    plain = make_network("cfn-esa", shift_weight=0.0)
    output = judge(plain, batch)
    assert set(output.losses) == {"emotion"}
    assert not output.log
    output.losses["emotion"].backward()
    idle = {name for name in without_gradient(plain) if not is_key_bias(name)}
    assert idle == {n for n, _ in plain.named_parameters() if n.startswith("shift.")}
    assert plain.balance.counts.tolist() == [0, 0]


def test_the_second_view_exists_in_training_alone() -> None:
    for dropout, training, differs in [(0.0, True, False), (0.5, True, True), (0.5, False, False)]:
        network = make_network("cfn-esa", dropout=dropout, hidden=16).train(training)
        views: list[Tensor] = []
        network.fusion.register_forward_hook(lambda _, __, out, views=views: views.append(out))
        judge(network, make_batch(LENGTHS))
        assert len(views) == 1 + training
        assert (len(views) > 1 and not torch.allclose(views[0], views[1])) == differs


def test_counted_pairs_are_those_of_the_training_batches() -> None:
    network = make_network("cfn-esa")
    seen = []
    for seed in range(3):
        batch = ragged_batch(seed)
        judge(network, batch)
        network.eval()(ragged_batch(seed + 10))
        network.train()
        for rows in rows_of_dialogues(batch):
            labels = [label for label in batch.labels[rows].tolist() if label >= 0]
            seen += [int(a != b) for a, b in itertools.product(labels, repeat=2)]
    assert network.balance.counts.tolist() == [seen.count(0), seen.count(1)]
    assert network.state_dict()["balance.counts"].dtype == torch.int64


def test_recomputing_changes_neither_losses_nor_gradients() -> None:
    batch, gradients = ragged_batch(5), []
    for recompute in (False, True):
        network = make_network(
            "cfn-esa", dropout=0.3, shift_dropout=0.3, recurrent_dropout=0.3, hidden=8, recurrence="separate",
            recompute=recompute,
        )  # fmt: skip
        torch.manual_seed(0)
        torch.stack([*judge(network, batch).losses.values()]).sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_in_bfloat16_it_learns_too() -> None:
    network = make_network("cfn-esa", emotion_loss="official")
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.stack([*judge(network, make_batch(LENGTHS)).losses.values()]).sum()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden", 0, "above 0"),
        ("hidden", 130, "multiple of network.heads"),
        ("dropout", 1.0, r"\[0, 1\)"),
        ("shift_share", 0.0, "above 0"),
        ("shift_share", 1.0, r"\[0, 1\)"),
        ("shift_weight", -1.0, "at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=f"network.{name} must .*{message}"):
        resolve("cfn-esa", {"network": {name: value}})


def test_presets_differ_in_what_they_say() -> None:
    presets = {name: resolve("cfn-esa", {"preset": name}) for name in MODELS["cfn-esa"].presets}
    meld, iemocap = presets["official-meld"], presets["official-iemocap"]
    assert (meld.network["hidden"], meld.network["cross_layers"], meld.training.batch_size) == (384, 3, 64)
    assert (iemocap.network["hidden"], iemocap.network["cross_layers"]) == (512, 5)
    assert (iemocap.training.batch_size, iemocap.training.epochs) == (32, 80)
    assert (meld.network["emotion_loss"], iemocap.network["emotion_loss"]) == ("official", "cross_entropy")
    assert (meld.network["shift_share"], iemocap.network["shift_share"]) == (0.5047, 0.4364)
    for official, paper in ((meld, presets["paper-meld"]), (iemocap, presets["paper-iemocap"])):
        own = {"emotion_loss": "cross_entropy", "shift_share": None}
        assert paper.network == official.network | own
        assert paper.training == replace(official.training, class_weights=None)


GOLDEN = [
    [-0.789743, -0.004569, -0.132029],
    [-0.779371, -0.113042, -0.117693],
    [-0.85159, 0.032705, -0.189148],
    [-0.840052, 0.064387, -0.179973],
]


@torch.no_grad()
def test_golden_values() -> None:
    network = make_network("cfn-esa").eval()
    fill_with_ramp(network)
    torch.testing.assert_close(network(ramp_batch()).logits, torch.tensor(GOLDEN), rtol=0, atol=1e-5)
