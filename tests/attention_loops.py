"""Attention and what stands around it, as plain loops in double precision: references for the tests."""

from collections.abc import Sequence

import torch
from torch import Tensor

from loops import State, linear


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """LayerNorm of one vector."""
    centred = x - x.mean()
    return centred / ((centred**2).mean() + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def feed_forward(state: State, name: str, x: Tensor) -> Tensor:
    """W_2 ReLU(W_1 x + b_1) + b_2."""
    return linear(state, f"{name}.3", linear(state, f"{name}.0", x).clamp(min=0))


def attend(
    state: State, name: str, query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], heads: int = 2
) -> Tensor:
    """What one query takes by multi-head attention; from no keys, the bias of the output map."""
    q = linear(state, f"{name}.query", query)
    k, v = (
        [linear(state, f"{name}.{kind}", x) for x in xs] for kind, xs in (("key", keys), ("value", values))
    )
    width = len(q) // heads
    taken = torch.zeros_like(q)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        exps = [torch.exp(q[part] @ x[part] / width**0.5) for x in k]
        for e, x in zip(exps, v, strict=True):
            taken[part] += e / sum(exps) * x[part]
    return linear(state, f"{name}.out", taken)


def self_attention(state: State, name: str, xs: Sequence[Tensor], there: Sequence[bool]) -> list[Tensor]:
    """LN(x + MHA(x, x, x)) of every utterance of a dialogue; only who is `there` can be attended to."""
    keys = [x for x, flag in zip(xs, there, strict=True) if flag]
    return [norm(state, f"{name}.norm", x + attend(state, f"{name}.attention", x, keys, keys)) for x in xs]
