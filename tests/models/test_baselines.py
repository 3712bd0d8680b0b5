"""The baselines against their definition; what holds for every network is in test_invariances.py."""

import pytest
import torch
from torch import Tensor

from helpers import SUBSETS, WIDTHS, judge, make_batch, make_network, take
from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.models import text_only
from mmerc.models.base import Network

LENGTHS = [3, 1, 4]


def vote(network: Network, batch: Batch, name: str) -> Tensor:
    """The logits of one modality of late fusion, one dialogue after the other."""
    column = sorted(batch.features).index(name)
    linear = network.projection.linear[name]
    votes = []
    for d in range(len(batch.lengths)):
        dialogue = take(batch, [d])
        x = torch.tanh(linear(dialogue.features[name])) * dialogue.present[:, [column]]
        states, _ = network.contexts[column].rnn(x)
        votes.append(network.classifiers[column](states))
    return torch.cat(votes)


@pytest.mark.parametrize("subset", SUBSETS, ids=len)
def test_late_fusion_averages_the_votes_of_the_modalities_present(subset: tuple[str, ...]) -> None:
    network = make_network("late-fusion", modalities=subset).eval()
    batch = make_batch(LENGTHS, subset, missing=0.4, seed=1)
    output = judge(network, batch)
    votes = [vote(network, batch, name) for name in subset]
    for i, flags in enumerate(batch.present.tolist()):
        there = [z[i] for z, flag in zip(votes, flags, strict=True) if flag]
        expected = torch.stack(there).mean(dim=0) if there else torch.zeros(3)
        torch.testing.assert_close(output.logits[i], expected, rtol=0, atol=1e-6)
        share = 1 / len(there) if there else 0.0
        assert output.contributions[i].tolist() == pytest.approx([share * flag for flag in flags])
    assert output.context_weight is None
    assert set(output.losses) == {"emotion"}


def test_text_only_is_a_classifier_on_a_bilstm() -> None:
    network = make_network("text-only").eval()
    batch = make_batch(LENGTHS, ("text",), missing=0.3)
    rows = []
    for d in range(len(LENGTHS)):
        dialogue = take(batch, [d])
        x = torch.tanh(network.projection.linear["text"](dialogue.features["text"])) * dialogue.present
        rows.append(network.classifier(network.context.rnn(x)[0]))
    output = judge(network, batch)
    torch.testing.assert_close(output.logits, torch.cat(rows), rtol=0, atol=1e-6)
    assert output.contributions is None
    assert output.context_weight is None


@pytest.mark.parametrize("names", [("audio",), ("audio", "text"), tuple(WIDTHS)])
def test_text_only_refuses_other_modalities(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"'text' alone, not .*audio"):
        text_only.TextOnly(text_only.Config(), dict.fromkeys(names, 3), 3)
