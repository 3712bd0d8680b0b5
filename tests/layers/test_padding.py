import torch
from hypothesis import given
from hypothesis import strategies as st

from mmerc.layers.padding import Padding

DIALOGUES = st.lists(st.integers(1, 6), min_size=1, max_size=6)
CPU = torch.device("cpu")


@given(lengths=DIALOGUES)
def test_padding_is_undone(lengths: list[int]) -> None:
    padding = Padding.of(torch.tensor(lengths), CPU)
    x = torch.arange(1.0, sum(lengths) + 1)[:, None] * torch.tensor([1.0, -1.0])
    padded = padding.pad(x)
    assert padded.shape == (len(lengths), max(lengths), 2)
    assert torch.equal(padding.flat(padded), x)
    for row, dialogue in zip(padded, x.split(lengths), strict=True):
        assert torch.equal(row[: len(dialogue)], dialogue)
        assert not row[len(dialogue) :].any()


@given(lengths=DIALOGUES)
def test_pairs_are_utterances_of_one_dialogue(lengths: list[int]) -> None:
    padding = Padding.of(torch.tensor(lengths), CPU)
    for causal in (False, True):
        pairs = padding.pairs(causal)
        for b, n in enumerate(lengths):
            for i in range(max(lengths)):
                for j in range(max(lengths)):
                    assert pairs[b, i, j] == (i < n and j < n and (j <= i or not causal))
