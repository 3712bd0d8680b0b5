"""How many operators a training step launches, counted without a GPU.

    python benchmarks/launches.py [--models a,b] [--preset refined] [--batch 8] [--steps 4]

A step runs on torch's device `meta`, whose tensors have shapes and no values: what a GPU would be told to do
is said, and nothing computes. Operators are counted below autograd, in fp32; views and empty tensors are left
out. What CUDA does at one call counts once (dropout, a recurrence of cuDNN, the cell of an LSTM, clipping and
optimizer over all parameters); attention counts in its parts, which CUDA fuses. Prints a Markdown table of a
step, the mean over a few batches of MELD's lengths, and what an epoch of such steps takes to launch.
"""

import argparse
import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmerc.batch import Batch
from mmerc.config import RunConfig
from mmerc.corpus import Corpus
from mmerc.errors import MmercError
from mmerc.models import MODELS, resolve
from mmerc.task import Task
from mmerc.training import Trainer
from shapes import write_noise

META = torch.device("meta")
MICROSECONDS = 5.0  # to launch an operator from Python, about
KERNELS_A_STEP = 5  # of cuDNN in a layer, a direction and a step of a recurrence, there and back, about
IN_MEMORY_ONLY = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten.lift_fresh")  # launch nothing


class HostWaitError(Exception):
    """The host would wait for the device here."""


class NoValues(TorchFunctionMode):
    """Refuses numbers of Python that torch would copy to the device, and wait: `meta` takes no values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].is_meta:
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(place, list | range | np.ndarray) for place in places):
                raise HostWaitError(f"{func.__name__} with numbers of Python, which become a tensor")
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == META:
            raise HostWaitError("a tensor of numbers of Python, made on the device")
        if func is Tensor.new_tensor and args[0].is_meta:
            raise HostWaitError("a tensor of numbers of Python, made on the device")
        return func(*args, **kwargs)


class Launches(TorchDispatchMode):
    """Counts what is done on `meta`, and refuses what would make the host wait for a real device.

    What asks for values (`.item()`, `nonzero`, a copy to the CPU) fails by itself, as there are none.

    Attributes:
        operators: name → how often it was launched
        copies: tensors that came from the CPU
        recurrent_steps: of recurrences, over layers and directions
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.operators: Counter[str] = Counter()
        self.copies = 0
        self.recurrent_steps = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator, and note it."""
        kwargs = kwargs or {}
        name = str(func)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        _require_no_wait(name, given, args, kwargs)
        result = func(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if (
            any(x.is_meta for x in [*given, *made])
            and not func.is_view
            and not name.startswith(IN_MEMORY_ONLY)
        ):
            self.operators[name] += 1
            self.copies += any(not x.is_meta and x.ndim for x in given)
        return result

    @property
    def kernels(self) -> int:
        """What a GPU gets to do, about: the inside of recurrences is an estimate."""
        return self.operators.total() + KERNELS_A_STEP * self.recurrent_steps


def _require_no_wait(
    name: str, given: Sequence[Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuse what runs on `meta` but makes the host wait for a real device."""
    on_device = any(x.is_meta for x in given)
    if name.startswith("aten.index") and on_device and len(args) > 1:
        marks = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor) and x.dtype == torch.bool]
        if marks:
            raise HostWaitError(f"{name} with a mask, which makes a shape of values")
    host = [x for x in given if not x.is_meta and x.ndim]  # a scalar of the host goes along with the launch
    if name.startswith("aten._to_copy"):
        if host and kwargs.get("device") == META and not kwargs.get("non_blocking"):
            raise HostWaitError("a copy to the device that blocks")
    elif name.startswith("aten.copy_"):
        if host and on_device and not (len(args) > 2 and args[2]):
            raise HostWaitError("a copy to the device that blocks")
    elif host and on_device:
        raise HostWaitError(f"{name} of tensors on the device and on the CPU")


class _Recurrence(torch.autograd.Function):
    """A recurrence as cuDNN does it: one call forward, one back to the inputs, one to the weights."""

    @staticmethod
    def forward(ctx: Any, launches: Launches, units: int, *tensors: Tensor) -> Tensor:
        """Return states (…, units) for the inputs tensors[0]; the others are weights."""
        ctx.launches = launches
        ctx.save_for_backward(*tensors)
        launches.operators["cudnn_rnn"] += 1
        return tensors[0].new_empty(*tensors[0].shape[:-1], units)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return gradients of the right shapes."""
        ctx.launches.operators["cudnn_rnn_backward"] += 2
        return None, None, *(torch.empty_like(x) for x in ctx.saved_tensors)


def _recurrence(launches: Launches) -> Callable[..., tuple[Tensor, ...]]:
    """Return what stands in for `lstm` and `gru` of a packed batch or of a padded one, batch first."""

    def run(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        packed = isinstance(arguments[0], Tensor) and not arguments[0].is_floating_point()
        *_, weights, _, layers, _, _, both_ways = arguments if packed else arguments[:-1]
        ways = 1 + both_ways
        launches.recurrent_steps += (len(arguments[0]) if packed else x.shape[1]) * layers * ways
        states = _Recurrence.apply(launches, ways * weights[1].shape[1], x, *weights)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return states, states, states

    return run


def _lstm_cell(x: Tensor, state: tuple[Tensor, Tensor], *weights: Tensor) -> tuple[Tensor, Tensor]:
    inputs, recurrent, *biases = weights
    driven, recalled = F.linear(x, inputs), F.linear(state[0], recurrent)
    h, c, _ = torch.ops.aten._thnn_fused_lstm_cell(driven, recalled, state[1], *biases)
    return h, c


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


@contextlib.contextmanager
def watched() -> Iterator[Launches]:
    """Count what is done on `meta`, which does within this block what CUDA would do."""
    launches = Launches()
    fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    foreach = "torch.utils._foreach_utils._get_foreach_kernels_supported_devices"
    with (
        patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()),
        patch.object(torch._VF, "lstm", _recurrence(launches)),
        patch.object(torch._VF, "gru", _recurrence(launches)),
        patch.object(torch._VF, "lstm_cell", _lstm_cell),
        patch.object(F, "dropout", _dropout),
        patch(fused, lambda: ["meta"]),
        patch(foreach, lambda: ["meta"]),
    ):
        yield launches


def take_step(trainer: Trainer, batch: Batch, launches: Launches) -> None:
    """Bring a batch to the device and train on it, within `watched`."""
    with launches, NoValues():
        trainer._step(batch.to(META))


class Count(NamedTuple):
    """What the steps of an epoch launch."""

    steps: int  # of an epoch
    operators: float  # of an average step, as is all that follows
    copies: float
    recurrent_steps: float
    kernels: float

    @property
    def seconds(self) -> float:
        """What an epoch takes to launch."""
        return self.steps * self.kernels * MICROSECONDS / 1e6


def count(corpus: Corpus, run: RunConfig, sample: int) -> Count:
    """Count the launches of `sample` steps that are spread over an epoch."""
    with watched() as launches:
        trainer = Trainer(Task(corpus, run, corpus.split("train"), corpus.split("validation"), seed=0), META)
        trainer.pipeline.train()
        # The first step makes the optimizer's state.
        take_step(trainer, trainer.examples.batch(trainer.task.train[:1]), Launches())
        batches = list(trainer._batches(np.random.default_rng(0)))
        for positions in batches[:: max(1, len(batches) // sample)][:sample]:
            take_step(trainer, trainer.examples.batch(trainer.task.train[positions]), launches)
    seen = launches.operators.total(), launches.copies, launches.recurrent_steps, launches.kernels
    return Count(len(batches), *(x / sample for x in seen))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names with commas between; default: all")
    parser.add_argument("--preset", help="default: each model's first")
    parser.add_argument("--batch", type=int, default=8, help="dialogues in a batch")
    parser.add_argument("--sample", type=int, default=4, help="steps over which the mean is taken")
    arguments = parser.parse_args()
    size = {"training": {"batch_size": arguments.batch, "batch_utterances": None}}
    preset = {"preset": arguments.preset} if arguments.preset else {}
    try:
        runs = [resolve(name.strip(), size, preset) for name in arguments.models.split(",")]
    except MmercError as error:
        parser.error(str(error))
    print(f"batches of {arguments.batch} dialogues of MELD's lengths; torch {torch.__version__}\n")
    print(
        "| model | operators | of them copies from the CPU | recurrent steps | kernels, about | s an epoch |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_noise(Path(folder) / "corpus", "meld")
        for run in runs:
            c = count(corpus, run, arguments.sample)
            cells = " | ".join(f"{x:,.0f}" for x in (c.operators, c.copies, c.recurrent_steps, c.kernels))
            print(f"| {run.model} ({run.preset}) | {cells} | {c.seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
