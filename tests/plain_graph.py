"""The graph over modalities and utterances as one dense matrix, filled entry by entry."""

import math

import torch
from torch import Tensor

from mmerc.layers.graph import DialogueGraph


def dialogue_numbers(lengths: list[int]) -> list[int]:
    """The dialogue of every row."""
    return [d for d, length in enumerate(lengths) for _ in range(length)]


def plain_adjacency(
    nodes: Tensor, present: Tensor, lengths: list[int], cross_weight: float, causal: bool = False
) -> Tensor:
    """A (M·N, M·N), node m·N + i is modality m of utterance i; from column to row."""
    count, rows = present.shape
    dialogue = dialogue_numbers(lengths)
    result = torch.zeros(count * rows, count * rows, dtype=nodes.dtype)
    for a in range(count):
        for b in range(count):
            for i in range(rows):
                for j in range(rows):
                    linked = i == j if a != b else dialogue[i] == dialogue[j] and not (causal and j > i)
                    if not linked or not present[a, i] or not present[b, j]:
                        continue
                    x, y = nodes[a, i], nodes[b, j]
                    cosine = float(x @ y) / (max(float(x.norm()), 1e-8) * max(float(y.norm()), 1e-8))
                    weight = 1 - math.acos(0.99999 * cosine) / math.pi
                    result[a * rows + i, b * rows + j] = weight * (cross_weight if a != b else 1.0)
    return result


def plain_normalised(adjacency: Tensor) -> Tensor:
    """D^{-1/2} A D^{-1/2}, zero for what has no edge."""
    degree = adjacency.sum(dim=1)
    result = torch.zeros_like(adjacency)
    for i in range(len(degree)):
        for j in range(len(degree)):
            if adjacency[i, j] > 0:
                result[i, j] = adjacency[i, j] / math.sqrt(float(degree[i] * degree[j]))
    return result


def dense(graph: DialogueGraph, nodes: int) -> Tensor:
    """The matrix (M·N, M·N) of a graph: what comes out where one node alone holds a 1."""
    modalities = graph.across.shape[1]
    columns = [
        graph.propagate(one.view(modalities, -1, 1)).flatten() for one in torch.eye(modalities * nodes)
    ]
    return torch.stack(columns, dim=1)
