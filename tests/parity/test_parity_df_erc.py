"""DF-ERC's preset `official` computes what its authors' code computes, weights copied."""

import authors_weights as tables
import pytest
import torch
from authors import Authors, Copied, agree, distance, gradients_agree
from torch import Tensor
from torch.nn import functional as F

from mmerc.layers.contrastive import contrastive_loss
from mmerc.layers.prototypes import class_sums, hinge_distance
from mmerc.models import Output

PRESET = "official-iemocap"
TAGS = {"tags_1_2_3": (1, 2, 3), "tags_1_1_2": (1, 1, 2)}  # of audio, text and visual; the code: the latter


@pytest.fixture
def authors(tolerance: float) -> Authors:
    return Authors("df-erc")


@pytest.fixture
def ours(authors: Authors) -> Copied:
    return Copied(authors.network(PRESET), authors.part("weight"), tables.df_erc)


def outcome(ours: Copied, authors: Authors) -> Output:
    output: Output = ours.network(authors.batch())
    return output


def contrastive_modality(ours: Copied, authors: Authors, tags: str) -> Tensor:
    """L^m_cl with the modalities tagged by hand."""
    batch = authors.batch()
    branches = ours.network.ddm(ours.network.projection(batch))[1]
    vectors = branches["modality"].flatten(0, 1)
    labels = torch.tensor(TAGS[tags]).repeat_interleave(len(batch.present))
    return contrastive_loss(vectors, labels, 1.0, torch.ones_like(labels, dtype=torch.bool))


def hinges(ours: Copied, authors: Authors) -> tuple[Tensor, Tensor]:
    """The hinge terms (M, N) around the prototypes of the batch, and the labels (N,)."""
    batch, network = authors.batch(), ours.network
    x = network.crm.relation(network.ddm(network.projection(batch))[0])
    labels = batch.labels.repeat(len(x))
    everyone = torch.ones_like(labels, dtype=torch.bool)
    sums, counts = class_sums(x.flatten(0, 1), labels, everyone, network.num_classes)
    means = (sums / counts.clamp(min=1)[:, None])[labels]
    return hinge_distance(x.flatten(0, 1), means, network.config.beta).view(len(x), -1), batch.labels


def similarity_as_published(ours: Copied, authors: Authors) -> Tensor:
    """L_sim with the authors' average: over the active terms by class and modality, then over these."""
    terms, labels = hinges(ours, authors)
    parts = [terms[:, labels == k] for k in labels.unique()]
    return torch.cat([part.sum(dim=1) / ((part > 0).sum(dim=1) + 1e-13) for part in parts]).mean()


def test_logits_contributions_and_context_weight(authors: Authors, ours: Copied, tolerance: float) -> None:
    output = outcome(ours, authors)
    agree(output.logits, authors.output("logits"), tolerance, "logits")
    agree(output.contributions.T, authors.output("omega"), tolerance, "ω")
    agree(output.context_weight, 0.8 * (1 - authors.output("psi")), tolerance, "0.8 (1 − ψ)")


def test_losses(authors: Authors, ours: Copied, tolerance: float) -> None:
    output = outcome(ours, authors)
    own_average = authors.output("loss.similarity.mean_over_active")  # deviation: of all active terms at once
    own_tags = authors.output(
        "loss.contrastive_modality.tags_1_2_3"
    )  # deviation: three modalities, three tags
    expected = {
        "emotion": authors.output("loss.emotion"),
        "contrastive": 0.4 * (own_tags + authors.output("loss.contrastive_utterance")),
        "teacher_ce": authors.output("loss.teacher_ce"),
        "student_mse": authors.output("loss.student_mse"),
        "similarity": 0.7 * own_average,
    }
    assert set(output.losses) == set(expected)
    for name, value in expected.items():
        agree(output.losses[name], value, tolerance, name)
    agree(output.diagnostics["hinge_active"], authors.output("loss.hinge_active"), tolerance)


def test_both_deviations_are_as_large_as_they_were(authors: Authors, ours: Copied, tolerance: float) -> None:
    losses = outcome(ours, authors).losses
    tags = distance(losses["contrastive"] / 0.4, authors.output("loss.contrastive_as_published"))
    assert tags == pytest.approx(authors.deviation("tags 1 1 2"), rel=0.05)
    average = distance(losses["similarity"] / 0.7, authors.output("loss.similarity.as_published"))
    assert average == pytest.approx(authors.deviation("averaging of L_sim"), rel=0.05)


def test_gradients_of_what_needs_no_deviation(authors: Authors, ours: Copied, tolerance: float) -> None:
    losses = outcome(ours, authors).losses
    found = ours.gradients(losses["emotion"] + losses["teacher_ce"] + losses["student_mse"])
    gradients_agree(found, authors.part("gradient_emotion_contribution"), tolerance)


@pytest.mark.parametrize("tags", TAGS)
def test_the_contrastive_loss_with_either_tags(
    tags: str, authors: Authors, ours: Copied, tolerance: float
) -> None:
    loss = contrastive_modality(ours, authors, tags)
    agree(loss, authors.output(f"loss.contrastive_modality.{tags}"), tolerance)
    gradients_agree(ours.gradients(loss), authors.part(f"gradient_contrastive_{tags}"), tolerance)


def test_the_similarity_loss_with_either_average(authors: Authors, ours: Copied, tolerance: float) -> None:
    plain, published = hinges(ours, authors)[0].mean(), similarity_as_published(ours, authors)
    agree(plain, authors.output("loss.similarity.plain_mean"), tolerance)
    agree(published, authors.output("loss.similarity.as_published"), tolerance)
    gradients_agree(ours.gradients(plain), authors.part("gradient_similarity_plain_mean"), tolerance)
    gradients_agree(ours.gradients(published), authors.part("gradient_similarity"), tolerance)


def test_the_whole_objective_with_both_deviations_undone(
    authors: Authors, ours: Copied, tolerance: float
) -> None:
    losses = outcome(ours, authors).losses
    tagged = [contrastive_modality(ours, authors, tags) for tags in ("tags_1_1_2", "tags_1_2_3")]
    loss = losses["emotion"] + losses["teacher_ce"] + losses["student_mse"] + losses["contrastive"]
    loss = loss + 0.4 * (tagged[0] - tagged[1]) + 0.7 * similarity_as_published(ours, authors)
    agree(loss, authors.output("loss.total_as_published"), tolerance)
    gradients_agree(ours.gradients(loss), authors.part("gradient"), tolerance)


def test_class_weights(authors: Authors, tolerance: float) -> None:
    weights = torch.tensor([1.0] + [1.3] * 5)
    heavy = Copied(authors.network(PRESET, weights), authors.part("weight"), tables.df_erc)
    expected = authors.output("loss.emotion_class_weights_1_1.3")
    agree(outcome(heavy, authors).losses["emotion"], expected, tolerance)
    assert distance(F.cross_entropy(outcome(heavy, authors).logits, authors.batch().labels), expected) > 0.001
