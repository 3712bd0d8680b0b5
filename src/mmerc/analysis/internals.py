"""What DF-ERC computes on its way to a prediction: the only place that looks inside its network."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmerc.examples import Examples
from mmerc.models.df_erc import DFERC
from mmerc.pipeline import Pipeline

DIALOGUES_AT_A_TIME = 32

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hidden:
    """Vectors and teacher of one checkpoint for N utterances, in the order of the dialogues asked for."""

    vectors: dict[str, Floats]  # `input` m̃, and `modality` m^m, `utterance` m^u if there; each (M, N, d)
    teacher: Floats | None  # (M, N, K) class probabilities of eq. 10; None without the CFM


@torch.inference_mode()
def hidden(pipeline: Pipeline, examples: Examples, dialogues: npt.NDArray[np.int64]) -> Hidden | None:
    """Return the hidden quantities of a DF-ERC; None for any other network. Labels are not looked at."""
    network = pipeline.network
    if not isinstance(network, DFERC):
        return None
    pipeline.eval()
    device = next(pipeline.parameters()).device
    pieces: list[dict[str, Tensor]] = []
    for part in np.array_split(dialogues, math.ceil(len(dialogues) / DIALOGUES_AT_A_TIME)):
        batch = pipeline.prepare(examples.batch(part)._replace(labels=None).to(device))
        projected = network.projection(batch)
        m, branches = network.ddm(projected)
        piece = {"input": projected, **branches}
        if network.config.fusion == "contribution":
            piece["teacher"] = network.cfm.teacher_logits(m).float().softmax(dim=-1)
        pieces.append(piece)
    arrays = {name: torch.cat([p[name].float() for p in pieces], dim=1).cpu().numpy() for name in pieces[0]}
    teacher = arrays.pop("teacher", None)
    return Hidden(arrays, teacher)
