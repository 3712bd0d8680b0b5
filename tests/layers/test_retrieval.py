import pytest
import torch

from mmerc.layers.padding import Padding
from mmerc.layers.retrieval import retrieve

LENGTHS = [3, 1, 5]


@pytest.mark.parametrize("causal", [False, True])
def test_retrieval_equals_plain_loops(causal: bool) -> None:
    torch.manual_seed(0)
    query, memory = torch.randn(sum(LENGTHS), 4), torch.randn(sum(LENGTHS), 4)
    found = retrieve(query, memory, Padding.of(torch.tensor(LENGTHS), query.device), causal)
    start = 0
    for length in LENGTHS:
        for i in range(start, start + length):
            keys = memory[start : i + 1 if causal else start + length]
            weights = torch.stack([(query[i] * key).sum() for key in keys]).softmax(dim=0)
            expected = sum(w * key for w, key in zip(weights, keys, strict=True))
            torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-6)
        start += length


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_stay_in_the_dialogue_and_are_finite(causal: bool) -> None:
    query = torch.randn(sum(LENGTHS), 4, requires_grad=True)
    memory = torch.randn(sum(LENGTHS), 4, requires_grad=True)
    retrieve(query, memory, Padding.of(torch.tensor(LENGTHS), query.device), causal)[5].sum().backward()
    assert query.grad is not None
    assert memory.grad is not None
    assert query.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [5]
    reached = memory.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert reached == ([4, 5] if causal else [4, 5, 6, 7, 8])
