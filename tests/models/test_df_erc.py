"""Gradients, ablations and training state of DF-ERC; its numbers are in test_df_erc_reference.py."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import ABLATIONS, DFERC_PRESETS, SUBSETS, judge, make_batch, make_network, take, total
from mmerc.errors import ConfigError
from mmerc.models.base import Network
from mmerc.models.df_erc_settings import Config

LENGTHS = [4, 1, 5]
ABLATED = list(itertools.product(DFERC_PRESETS, ABLATIONS))


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor | None]:
    return [*torch.autograd.grad(loss, [*module.parameters()], allow_unused=True, retain_graph=True)]


def reached(loss: Tensor, module: nn.Module) -> bool:
    return any(g is not None and bool((g != 0).any()) for g in gradients(loss, module))


def without_effect(config: Config, modalities: int) -> tuple[str, ...]:
    """Prefixes of parameters that an ablation leaves in place but takes out of every loss."""
    names = []
    if config.refusion == "zero":
        names += ["crm.context", "crm.speaker"]  # multiplied by 0
    if config.fusion == "attention" and modalities == 1:
        names.append("cfm.attention")  # the softmax over one source is 1
    return tuple(names)


def config_of(network: Network) -> Config:
    assert isinstance(network.config, Config)
    return network.config


@pytest.mark.parametrize("subset", SUBSETS, ids=len)
@pytest.mark.parametrize(("preset", "ablation"), ABLATED)
def test_every_parameter_learns(preset: str, ablation: str, subset: tuple[str, ...]) -> None:
    # With slack β = 0 every hinge is active; the inactive hinge has its own test.
    network = make_network("df-erc", preset, subset, beta=0.0, **ABLATIONS[ablation])
    network.start_epoch()
    total(judge(network, make_batch(LENGTHS, subset))).backward()
    dead = without_effect(config_of(network), len(subset))
    for name, parameter in network.named_parameters():
        moved = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert moved != (bool(dead) and name.startswith(dead)), name


@pytest.mark.parametrize("subset", SUBSETS, ids=len)
@pytest.mark.parametrize(("preset", "ablation"), ABLATED)
def test_bfloat16_is_finite(preset: str, ablation: str, subset: tuple[str, ...]) -> None:
    network = make_network("df-erc", preset, subset, **ABLATIONS[ablation])
    batch = make_batch(LENGTHS, subset, missing=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        output = judge(network, batch)
    total(output).backward()
    exact = network.eval()(batch).logits
    assert torch.isfinite(total(output))
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    torch.testing.assert_close(output.logits.float(), exact, rtol=0, atol=0.03)


def test_an_inactive_hinge_leaves_the_relation_vectors_random() -> None:
    network = make_network("df-erc", "paper-meld", beta=1e6)
    output = judge(network, make_batch(LENGTHS))
    assert output.log["hinge_active"] == 0
    assert not reached(total(output), network.crm.relation)


@pytest.mark.parametrize("preset", ["paper-meld", "official-iemocap"])
def test_the_hinge_is_active_at_the_start_with_the_initial_weights_of_the_authors(preset: str) -> None:
    shares = {}
    for kind in ("torch", "kaiming"):
        network = make_network("df-erc", preset, hidden=128, relation_width=128, initial_weights=kind)
        network.start_epoch()
        output = judge(network, make_batch([20, 20]))
        shares[kind] = float(output.log["hinge_active"])
        assert reached(total(output), network.crm.relation) == (kind == "kaiming")
    assert shares["torch"] == 0
    assert shares["kaiming"] > 0.5


def test_the_relation_vectors_learn_from_the_similarity_loss_alone() -> None:
    network = make_network("df-erc", "paper-meld", beta=0.0)
    losses = judge(network, make_batch(LENGTHS)).losses
    assert reached(losses.pop("similarity"), network.crm.relation)
    assert gradients(torch.stack([*losses.values()]).sum(), network.crm.relation) == [None, None]


def test_agreement_passes_gradient_only_when_asked_to() -> None:
    for asked in (False, True):
        network = make_network("df-erc", "paper-meld", agreement_gradient=asked)
        output = judge(network, make_batch(LENGTHS))
        assert reached(output.losses["emotion"], network.crm.relation) == asked
        assert output.context_weight is not None
        assert output.context_weight.requires_grad == asked


@pytest.mark.parametrize(("preset", "pulled"), [("paper-meld", False), ("official-iemocap", True)])
def test_the_teacher_is_detached_in_the_paper_only(preset: str, pulled: bool) -> None:
    network = make_network("df-erc", preset)
    losses = judge(network, make_batch(LENGTHS)).losses
    assert reached(losses["student_mse"], network.cfm.teacher) == pulled
    assert reached(losses["student_mse"], network.cfm.student)
    assert reached(losses["teacher_ce"], network.cfm.teacher)
    assert not reached(losses["teacher_ce"], network.cfm.student)


@pytest.mark.parametrize("preset", DFERC_PRESETS)
def test_contributions_learn_from_the_emotion_loss(preset: str) -> None:
    network = make_network("df-erc", preset)
    assert reached(judge(network, make_batch(LENGTHS)).losses["emotion"], network.cfm.student)


@pytest.mark.parametrize("preset", DFERC_PRESETS)
def test_both_contribution_losses_reach_the_features(preset: str) -> None:
    network = make_network("df-erc", preset)
    losses = judge(network, make_batch(LENGTHS)).losses
    assert reached(losses["teacher_ce"], network.projection)
    assert reached(losses["student_mse"], network.projection)


@pytest.mark.parametrize(("preset", "attached"), [("paper-meld", False), ("official-iemocap", True)])
def test_prototypes_carry_gradient_in_the_official_code_only(preset: str, attached: bool) -> None:
    # One utterance of one modality is its own batch mean: no distance, and none to be reduced.
    network = make_network("df-erc", preset, ("text",), beta=0.0)
    loss = judge(network, make_batch([1], ("text",))).losses["similarity"]
    assert loss.item() == pytest.approx(0, abs=1e-12)
    moved = make_batch([2], ("text",))._replace(labels=torch.zeros(2, dtype=torch.int64))
    network.start_epoch()
    x = torch.tensor([[[1.0] * 5, [3.0] * 5]], requires_grad=True)
    loss, _ = network.crm.loss({"relation": x}, moved)
    (gradient,) = torch.autograd.grad(loss, x)
    # mean of (1 − r)², (3 − r)² with r = 2: the mean of r's own gradient is zero at the mean.
    torch.testing.assert_close(gradient[0, :, 0], torch.tensor([-0.2, 0.2]))
    single = moved._replace(labels=torch.tensor([0, 1]))
    network.crm.running.means.fill_(0.0)
    network.eval()
    (gradient,) = torch.autograd.grad(network.crm.loss({"relation": x}, single)[0], x)
    assert bool((gradient == 0).all()) == attached


def running_state(network: Network) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items() if k.startswith("crm.running")}


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1], [2, 2], [4]])
def test_an_epoch_of_prototypes_is_the_plain_mean_of_the_relation_vectors(cuts: list[int]) -> None:
    network = make_network("df-erc", "paper-meld")
    batch = make_batch([3, 1, 6, 2], missing=0.2, unlabelled=0.2)
    assert batch.labels is not None
    network.crm.running.means.fill_(7.0)
    network.start_epoch()
    for part in torch.arange(4).split(cuts):
        judge(network, take(batch, part.tolist()))
    m, _ = network.ddm(network.projection(batch))
    x = network.crm.relation(m)
    for k in range(3):
        mine = [
            x[column, row]
            for row in range(12)
            for column in range(3)
            if batch.labels[row] == k and batch.present[row, column]
        ]
        torch.testing.assert_close(network.crm.running.means[k], torch.stack(mine).mean(dim=0))
        assert network.crm.running.counts[k] == len(mine)


@pytest.mark.parametrize("preset", DFERC_PRESETS)
def test_prototypes_move_in_training_only(preset: str) -> None:
    network, batch = make_network("df-erc", preset), make_batch(LENGTHS)
    fresh = running_state(network)
    judge(network.eval(), batch)
    assert all(torch.equal(v, fresh[k]) for k, v in running_state(network).items())
    judge(network.train(), batch)
    if preset.startswith("paper"):
        assert running_state(network)["crm.running.counts"].sum() == 30
    network.start_epoch()
    assert all(torch.equal(v, fresh[k]) for k, v in running_state(network).items())


@pytest.mark.parametrize("preset", DFERC_PRESETS)
@pytest.mark.parametrize(
    ("ablation", "gone"),
    [
        ("full", set()),
        ("without-ddm", {"contrastive"}),
        ("without-contrast", {"contrastive"}),
        ("without-cfm", {"teacher_ce", "student_mse"}),
        ("cfm-attention", {"teacher_ce", "student_mse"}),
        ("full-context", {"similarity"}),
        ("zero-context", {"similarity"}),
        ("crm-attention", {"similarity"}),
    ],
)
def test_an_ablation_takes_its_losses_away(preset: str, ablation: str, gone: set[str]) -> None:
    batch = make_batch(LENGTHS)
    everything = set(judge(make_network("df-erc", preset), batch).losses)
    assert everything >= {"emotion", "contrastive", "teacher_ce", "student_mse", "similarity"}
    ablated = make_network("df-erc", preset, **ABLATIONS[ablation])
    assert set(judge(ablated, batch).losses) == everything - gone


@pytest.mark.parametrize("name", ["modality", "utterance"])
def test_without_one_branch_its_contrastive_loss_is_gone(name: str) -> None:
    network, batch = make_network("df-erc", "paper-meld"), make_batch(LENGTHS)
    _, branches = network.ddm(network.projection(batch))
    both = network.ddm.loss(branches, batch)
    alone = {k: v for k, v in branches.items() if k != name}
    rest = network.ddm.loss(alone, batch)
    removed = network.ddm.loss({name: branches[name]}, batch)
    torch.testing.assert_close(both, rest + removed)
    ablated = make_network("df-erc", "paper-meld", **{f"{name}_branch": False})
    assert set(ablated.ddm(ablated.projection(batch))[1]) == set(alone)


def test_context_weights_of_the_ablations() -> None:
    batch = make_batch(LENGTHS, missing=0.2)
    whole = batch._replace(present=torch.ones_like(batch.present))  # of two modalities ψ may reach −1
    weights = {
        name: make_network("df-erc", "paper-meld", **ABLATIONS[name]).eval()(batch).context_weight
        for name in ("full-context", "zero-context", "crm-attention")
    }
    assert (weights["full-context"] == 1).all()
    assert (weights["zero-context"] == 0).all()
    assert ((weights["crm-attention"] > 0) & (weights["crm-attention"] < 1)).all()
    gate = make_network("df-erc", "paper-meld").eval()(whole).context_weight
    assert ((gate >= 0) & (gate <= 1.5 + 1e-6)).all()
    uniform = make_network("df-erc", "paper-meld", **ABLATIONS["without-cfm"]).eval()(batch).contributions
    assert torch.equal(uniform, batch.present.float())
    attention = make_network("df-erc", "paper-meld", **ABLATIONS["cfm-attention"]).eval()(batch).contributions
    torch.testing.assert_close(attention.sum(dim=1), batch.present.any(dim=1).float())


@pytest.mark.parametrize("preset", DFERC_PRESETS)
@pytest.mark.parametrize("name", ["audio", "text", "visual"])
def test_one_modality_has_no_agreement_and_no_contrast(preset: str, name: str) -> None:
    network = make_network("df-erc", preset, (name,))
    output = judge(network, make_batch(LENGTHS, (name,)))
    assert not network.gated
    assert output.context_weight is not None
    torch.testing.assert_close(output.context_weight, torch.ones(10), rtol=0, atol=1e-6)
    assert output.losses["contrastive"] == 0


def test_gated_says_whether_the_context_weight_varies() -> None:
    assert make_network("df-erc", "paper-meld").gated
    assert not make_network("df-erc", "paper-meld", **ABLATIONS["full-context"]).gated


@pytest.mark.parametrize(
    ("switch", "weight"), [("alpha_contrastive", "contrastive"), ("alpha_similarity", "similarity")]
)
def test_losses_are_already_weighted(switch: str, weight: str) -> None:
    batch = make_batch(LENGTHS)
    networks = [make_network("df-erc", "paper-meld", **{switch: factor}) for factor in (0.5, 1.0)]
    single, double = (judge(network, batch).losses for network in networks)
    torch.testing.assert_close(2 * single[weight], double[weight])


SWITCHES: list[dict[str, Any]] = [
    {"agreement_on": "emotions"},
    {"agreement_gradient": True},
    {"agreement_on": "emotions", "agreement_gradient": True},
    {"speaker_hidden": 2},
    {"context_layers": 2},
]


@pytest.mark.parametrize("subset", SUBSETS, ids=len)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_reading_of_the_paper_learns(switches: dict[str, Any], subset: tuple[str, ...]) -> None:
    network = make_network("df-erc", "paper-meld", subset, beta=0.0, **switches)
    output = judge(network, make_batch(LENGTHS, subset))
    total(output).backward()
    assert torch.isfinite(total(output))
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize(("layers", "dropped"), [(1, True), (2, True), (2, False)])
def test_the_official_code_drops_what_each_recurrence_reads(layers: int, dropped: bool) -> None:
    network = make_network("df-erc", "official-iemocap", layer_dropout=0.5 * dropped, context_layers=layers)
    if layers == 2:
        network.crm.context_dropout = nn.Identity()  # leaves what is between the layers
    batch = make_batch(LENGTHS)
    assert torch.equal(network(batch).logits, network(batch).logits) == (not dropped)


@pytest.mark.parametrize(("preset", "count"), [("paper-meld", 1), ("official-iemocap", 0)])
def test_the_official_code_drops_nothing_before_the_classifier(preset: str, count: int) -> None:
    network = make_network("df-erc", preset)
    assert sum(isinstance(module, nn.Dropout) for module in network.classifier) == count


def test_the_official_code_cannot_be_causal() -> None:
    with pytest.raises(ConfigError, match="next utterance"):
        make_network("df-erc", "official-iemocap", causal=True)
