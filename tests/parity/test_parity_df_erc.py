"""DF-ERC's preset `official-iemocap` computes what its authors' code computes, weights copied."""

import authors_weights as tables
import pytest
import torch
from authors import Authors, Copied, agree, distance, gradients_agree
from torch import Tensor
from torch.nn import functional as F

from helpers import Judged, judge
from mmerc.layers.contrastive import contrastive_loss

PRESET = "official-iemocap"


@pytest.fixture
def authors(tolerance: float) -> Authors:
    return Authors("df-erc")


@pytest.fixture
def ours(authors: Authors) -> Copied:
    return Copied(authors.network(PRESET), authors.part("weight"), tables.df_erc)


def outcome(ours: Copied, authors: Authors) -> Judged:
    return judge(ours.network, authors.batch())


def contrastive_modality(ours: Copied, authors: Authors) -> Tensor:
    """L^m_cl as it is in the objective."""
    network, batch = ours.network, authors.batch()
    branches = network.ddm(network.projection(batch))[1]
    return network.ddm.loss({"modality": branches["modality"]}, batch)


def test_logits_contributions_and_agreement(authors: Authors, ours: Copied, tolerance: float) -> None:
    output = outcome(ours, authors)
    agree(output.logits, authors.output("logits"), tolerance, "logits")
    agree(output.contributions.T, authors.output("omega"), tolerance, "ω")
    agree(1 - output.context_weight, authors.output("psi"), tolerance, "ψ")


def test_losses(authors: Authors, ours: Copied, tolerance: float) -> None:
    output = outcome(ours, authors)
    expected = {
        "emotion": authors.output("loss.emotion"),
        "contrastive": 0.4 * authors.output("loss.contrastive_as_published"),
        "teacher_ce": authors.output("loss.teacher_ce"),
        "student_mse": authors.output("loss.student_mse"),
        "similarity": 0.7 * authors.output("loss.similarity.as_published"),
    }
    assert set(output.losses) == set(expected)
    for name, value in expected.items():
        agree(output.losses[name], value, tolerance, name)
    agree(output.log["hinge_active"], authors.output("loss.hinge_active"), tolerance)


def test_the_whole_objective(authors: Authors, ours: Copied, tolerance: float) -> None:
    loss = torch.stack([*outcome(ours, authors).losses.values()]).sum()
    agree(loss, authors.output("loss.total_as_published"), tolerance)
    gradients_agree(ours.gradients(loss), authors.part("gradient"), tolerance)


def test_gradients_of_emotion_and_contribution(authors: Authors, ours: Copied, tolerance: float) -> None:
    losses = outcome(ours, authors).losses
    found = ours.gradients(losses["emotion"] + losses["teacher_ce"] + losses["student_mse"])
    gradients_agree(found, authors.part("gradient_emotion_contribution"), tolerance)


def test_the_similarity_loss_averages_by_emotion_and_modality(
    authors: Authors, ours: Copied, tolerance: float
) -> None:
    loss = outcome(ours, authors).losses["similarity"] / 0.7
    gradients_agree(ours.gradients(loss), authors.part("gradient_similarity"), tolerance)
    one_mean = authors.output("loss.similarity.mean_over_active")
    assert distance(loss, one_mean) == pytest.approx(authors.deviation("averaging of L_sim"), rel=0.05)


def test_text_and_audio_are_one_class_of_the_modality_level(
    authors: Authors, ours: Copied, tolerance: float
) -> None:
    loss = contrastive_modality(ours, authors)
    agree(loss, authors.output("loss.contrastive_modality.tags_1_1_2"), tolerance)
    gradients_agree(ours.gradients(loss), authors.part("gradient_contrastive_tags_1_1_2"), tolerance)
    three = authors.output("loss.contrastive_modality.tags_1_2_3")
    assert distance(loss, three) == pytest.approx(authors.deviation("tags 1 1 2"), rel=0.05)


def test_eq_3_with_three_tags(authors: Authors, ours: Copied, tolerance: float) -> None:
    network, batch = ours.network, authors.batch()
    vectors = network.ddm(network.projection(batch))[1]["modality"].flatten(0, 1)
    tags = torch.arange(3).repeat_interleave(len(batch.present))
    loss = contrastive_loss(vectors, tags, 1.0, torch.ones_like(tags, dtype=torch.bool))
    agree(loss, authors.output("loss.contrastive_modality.tags_1_2_3"), tolerance)
    gradients_agree(ours.gradients(loss), authors.part("gradient_contrastive_tags_1_2_3"), tolerance)


def test_class_weights(authors: Authors, tolerance: float) -> None:
    weights = torch.tensor([1.0] + [1.3] * 5)
    heavy = Copied(authors.network(PRESET, weights), authors.part("weight"), tables.df_erc)
    expected = authors.output("loss.emotion_class_weights_1_1.3")
    agree(outcome(heavy, authors).losses["emotion"], expected, tolerance)
    assert distance(F.cross_entropy(outcome(heavy, authors).logits, authors.batch().labels), expected) > 0.001
