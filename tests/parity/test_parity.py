"""Our networks compute what the authors' published code computes, weights copied."""

from typing import Any, NamedTuple

import authors_weights as tables
import pytest
import torch
from authors import Authors, Copied, Table, Weights, agree, distance, gradients_agree
from torch import Tensor, nn

from helpers import judge, total
from mmerc.layers.graph import InitialResidualConvolution


class Case(NamedTuple):
    """A file, and what ours has to be for it."""

    table: Table
    preset: str
    loss: str = "emotion"  # the name of what is differentiated


CASES = {
    "mm-dfn": Case(tables.mm_dfn, "official-iemocap", "gamma_0.5"),
    "cfn-esa": Case(tables.cfn_esa, "official-meld", "total"),
    "dialogue-rnn": Case(tables.dialogue_rnn, "paper"),
    "dialogue-rnn-listener": Case(tables.dialogue_rnn, "paper"),
    "dialogue-crn": Case(tables.dialogue_crn, "paper"),
    "mmgcn": Case(tables.mmgcn, "paper"),
    "tfn": Case(tables.tfn, "paper"),
    "mfn": Case(tables.mfn, "paper"),
}


def that_ours_has(file: str, tensors: Weights) -> dict[str, Tensor]:
    """Leave out the weights that ours has no counterpart of; each deviation has its test below."""
    lacking = ("matchatt.transform.bias", "star_64_layers")
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(lacking)}
    if file == "mfn":  # gates that read the memory: their last columns
        width = tensors["att1_fc1.weight"].shape[1]
        found |= {f"gamma{k}_fc1.weight": tensors[f"gamma{k}_fc1.weight"][:, :width] for k in (1, 2)}
    return found


def copied(file: str, weighted: bool = False, **overrides: Any) -> tuple[Authors, Copied]:
    """Return the file and our network with its weights; `weighted`: with the file's class weights."""
    authors, case = Authors(file), CASES[file]
    class_weights = authors.tensors["input.class_weights"] if weighted else None
    network = authors.network(case.preset, class_weights, **overrides)
    if file == "mmgcn":  # deviation undone: the authors classify by one linear map, ours has a hidden layer
        classes, width = authors.part("weight")["smax_fc.weight"].shape
        network.classifier = nn.Sequential(nn.ReLU(), nn.Linear(width, classes))
    return authors, Copied(network, that_ours_has(file, authors.part("weight")), case.table)


@pytest.mark.parametrize("file", CASES)
def test_logits_loss_and_gradients(file: str, tolerance: float) -> None:
    authors, ours = copied(file)
    output = judge(ours.network, authors.batch())
    agree(output.logits, authors.output("logits"), tolerance, "logits")
    agree(total(output), authors.output(f"loss.{CASES[file].loss}"), tolerance, "loss")
    expected = that_ours_has(file, authors.part("gradient"))
    gradients_agree(ours.gradients(total(output)), expected, tolerance)


@pytest.mark.parametrize("file", [file for file, case in CASES.items() if case.loss == "emotion"])
def test_the_loss_with_class_weights(file: str, tolerance: float) -> None:
    authors, ours = copied(file, weighted=True)
    agree(total(judge(ours.network, authors.batch())), authors.output("loss.emotion_weighted"), tolerance)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_the_focal_loss_of_mm_dfn(gamma: float, weighted: bool, tolerance: float) -> None:
    authors, ours = copied("mm-dfn", weighted, focal_gamma=gamma)
    expected = authors.output(f"loss.gamma_{gamma}{'_weighted' * weighted}")
    agree(total(judge(ours.network, authors.batch())), expected, tolerance)


@pytest.mark.parametrize(
    ("variant", "overrides"),
    [
        ("speaker_weights_meld", {"speaker_weights": {"audio": 0.5, "text": 1.5, "visual": 0.5}}),
        ("cross_weight_0.7", {"cross_weight": 0.7}),
    ],
)
def test_other_settings_of_mm_dfn(variant: str, overrides: dict[str, Any], tolerance: float) -> None:
    authors, ours = copied("mm-dfn", **overrides)
    agree(ours.network(authors.batch()).logits, authors.output(f"{variant}.logits"), tolerance)


def test_mm_dfn_runs_no_recurrence_over_padding() -> None:
    authors, ours = copied("mm-dfn")
    logits = ours.network(authors.batch()).logits
    alone = distance(logits, authors.output("party_padding.logits"))
    assert alone == pytest.approx(authors.deviation("B5: party"), rel=0.05)
    batched = distance(logits.log_softmax(dim=-1), authors.output("batch_padding.log_probabilities"))
    assert batched == pytest.approx(authors.deviation("B4, B5"), rel=0.05)


def test_mm_dfn_of_one_speaker_needs_no_deviation(tolerance: float) -> None:
    authors, ours = copied("mm-dfn")
    nobody_else = torch.zeros_like(authors.batch().speakers)
    logits = ours.network(authors.batch(speakers=nobody_else)).logits
    agree(logits, authors.output("one_speaker.logits"), tolerance)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_cross_entropy_of_cfn_esa(weighted: bool, tolerance: float) -> None:
    authors, ours = copied("cfn-esa", weighted, emotion_loss="cross_entropy")
    expected = authors.output(f"loss.emotion.cross_entropy{'_weighted' * weighted}")
    agree(judge(ours.network, authors.batch()).losses["emotion"], expected, tolerance)


@pytest.mark.parametrize("share", [0.4364, 0.5047])  # of IEMOCAP, of MELD
def test_the_shift_loss_of_cfn_esa(share: float, tolerance: float) -> None:
    authors, ours = copied("cfn-esa", shift_share=share, shift_weight=1.0)
    agree(
        judge(ours.network, authors.batch()).losses["shift"], authors.output(f"loss.shift.{share}"), tolerance
    )


def test_cfn_esa_masks_padding() -> None:
    authors, ours = copied("cfn-esa")
    moved = distance(ours.network(authors.batch()).logits, authors.output("batch_padding.logits"))
    assert moved == pytest.approx(authors.deviation("E1, E2"), rel=0.05)


@pytest.mark.parametrize("file", ["dialogue-rnn", "dialogue-rnn-listener"])
def test_the_attention_of_dialogue_rnn_has_no_bias(file: str, tolerance: float) -> None:
    authors, ours = copied(file)
    logits = ours.network(authors.batch()).logits
    moved = distance(logits, authors.output("with_attention_bias.logits"))
    assert moved == pytest.approx(authors.deviation("attention bias"), rel=0.05)
    match = ours.network.match
    biased = nn.Linear(match.in_features, match.out_features)
    biased.load_state_dict({"weight": match.weight, "bias": authors.tensors["input.attention_bias"]})
    ours.network.match = biased  # undone
    agree(ours.network(authors.batch()).logits, authors.output("with_attention_bias.logits"), tolerance)


def test_dialogue_crn_has_no_relu_before_its_classifier(tolerance: float) -> None:
    authors, ours = copied("dialogue-crn")
    logits = ours.network(authors.batch()).logits
    moved = distance(logits, authors.output("with_relu.logits"))
    assert moved == pytest.approx(authors.deviation("undocumented: ReLU)"), rel=0.05)
    moved = distance(logits, authors.output("as_published.logits"))  # and no recurrence over padding
    assert moved == pytest.approx(authors.deviation("padding"), rel=0.05)
    ours.network.classifier.insert(0, nn.ReLU())  # undone
    agree(ours.network(authors.batch()).logits, authors.output("with_relu.logits"), tolerance)


def test_mmgcn_as_published_has_64_layers_of_the_variant(tolerance: float) -> None:
    authors, ours = copied("mmgcn")
    c, gcn = ours.network.config, ours.network.gcn
    layers = (c.graph_hidden, c.residual_alpha, c.residual_lambda)
    deep = [InitialResidualConvolution(layers[0], k, *layers[1:], variant=True) for k in range(1, 65)]
    for number, layer in enumerate(deep):
        layer.load_state_dict({"weight": authors.part("weight")[f"star_64_layers.convs.{number}.weight"]})
    gcn.convolutions = nn.ModuleList(deep)
    agree(ours.network(authors.batch()).logits, authors.output("star_64_layers.logits"), tolerance)


def test_the_gates_of_mfn_do_not_read_the_memory() -> None:
    authors, ours = copied("mfn")
    moved = distance(ours.network(authors.batch()).logits, authors.output("gates_read_memory.logits"))
    assert moved == pytest.approx(authors.deviation("gates read the memory"), rel=0.05)
