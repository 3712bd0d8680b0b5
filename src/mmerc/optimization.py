"""Device, precision, optimizer, schedule and objective: chosen here and nowhere else."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from mmerc.batch import Batch
from mmerc.config import RunConfig, TrainingConfig
from mmerc.distributed import gather_rows, processes
from mmerc.errors import ConfigError, TrainingError
from mmerc.models.base import Output, Scalars
from mmerc.pipeline import Pipeline
from mmerc.system import c_library

_log = logging.getLogger(__name__)
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


class Objective(nn.Module):
    """From a batch to its losses: what a step differentiates, and no more.

    A network speaks of the dialogues of its process, and is judged on those of all.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, batch: Batch) -> tuple[Scalars, Scalars]:
        """Return the losses and scalars for the log, by name; the same in every process."""
        return self.pipeline.network.losses(*_of_all_processes(self.pipeline(batch), batch))


def _of_all_processes(output: Output, batch: Batch) -> tuple[Output, Batch]:
    if processes() == 1:
        return output, batch

    def every(rows: Tensor) -> Tensor:
        return gather_rows(rows.to(output.logits.device))[0]

    contributions, labels = output.contributions, batch.labels
    said = Output(
        every(output.logits),
        None if contributions is None else every(contributions),
        auxiliary={name: every(rows) for name, rows in output.auxiliary.items()},
    )
    whole = Batch(
        features={},  # nobody judges them
        present=every(batch.present),
        lengths=every(batch.lengths).cpu(),
        speakers=every(batch.speakers).cpu(),
        labels=None if labels is None else every(labels),
    )
    return said, whole


def choose_device(name: str) -> torch.device:
    """Return the torch device; `auto` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(chosen)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {chosen!r} cannot be used: {str(error).splitlines()[0]}") from None
    _log.debug("computing on %s", device)
    return device


def choose_precision(name: str, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Return the precision to train in; `auto` is bf16 on a CUDA device that has it, else fp32.

    Raises:
        ConfigError: fp16 without CUDA.
    """
    if name == "fp16" and device.type != "cuda":
        raise ConfigError("training.precision fp16 needs a CUDA device; use bf16 or fp32 on the CPU")
    if name == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return cast(Literal["fp32", "bf16", "fp16"], name)


def mixed_precision(precision: str, device: torch.device) -> tuple[Callable[[], Any], torch.amp.GradScaler]:
    """Return a maker of autocast contexts and the gradient scaler for a precision on a device."""
    precision = choose_precision(precision, device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")

    return autocast, torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextmanager
def failures_explained(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Turn what torch raises while a model computes into an error that says what to do.

    Raises:
        TrainingError: memory ran out, or torch cannot compute the model in this precision on this device.
    """
    try:
        yield
    except RuntimeError as error:
        # The allocator of the CPU has no exception class of its own.
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise TrainingError(
                "out of memory: lower training.batch_size or the widths of the network, or, with a text "
                "encoder, set text_encoder.gradient_checkpointing; --resume goes on where it stopped"
            ) from None
        precision = choose_precision(config.training.precision, device)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        instead = "training.precision=fp32 or another --device" if precision != "fp32" else "another --device"
        raise TrainingError(
            f"torch {torch.__version__} failed to compute {config.model} in {precision} on {device}: "
            f"{reason}; try {instead}; --resume goes on where it stopped"
        ) from error


def return_large_blocks() -> None:
    """Let this process give memory blocks above 1 MiB back to the system as soon as they are free.

    The C library of most Linux systems keeps them, in pieces that the tensors of the next batch, of other
    lengths, often do not fit: a third of the peak, where layers are many. Other systems are left alone.
    """
    if (adjust := getattr(c_library(), "mallopt", None)) is not None:
        adjust(M_MMAP_THRESHOLD, 2**20)


def return_free_memory() -> None:
    """Give back to the system what the C library holds of freed memory, on Linux; takes milliseconds.

    Batches of ever other shapes leave holes: a process that serves for long grows by them. To do this now
    and then costs less than `return_large_blocks`, which makes every large tensor dearer.
    """
    if (trim := getattr(c_library(), "malloc_trim", None)) is not None:
        trim(0)


def make_optimizer(pipeline: Pipeline, config: TrainingConfig, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW with one learning rate for the network and one for a text encoder trained along."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for _, parameter, of_encoder in pipeline.parameter_groups():
        decays = config.decay_biases or parameter.ndim > 1
        groups.setdefault((of_encoder, decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.encoder_learning_rate if of_encoder else config.learning_rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (of_encoder, decays), parameters in groups.items()
        ],
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate_factor(config: TrainingConfig, total: int) -> Callable[[int], float]:
    """Return the factor on the learning rate at each step: linear warm-up, then the schedule."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        rest = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        shapes = {"constant": 1.0, "linear": 1 - rest, "cosine": 0.5 * (1 + np.cos(np.pi * rest))}
        return float(shapes[config.schedule])

    return factor
