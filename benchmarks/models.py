"""What a training epoch of every model costs in time and memory, on generated features.

    python benchmarks/models.py [--shape meld|iemocap] [--models a,b] [--preset refined] [--batch 8]

Every model runs in a process of its own, with one thread and batches of so many dialogues. Prints a Markdown
table: the best epoch (forward to optimizer step); the same in matrix products of this machine, so that
figures carry over between machines; the resident memory once imports, corpus and network are loaded, and
what training adds to it at its peak.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mmerc.config import RunConfig, parse_overrides
from mmerc.corpus import Corpus
from mmerc.errors import MmercError
from mmerc.models import MODELS, resolve
from mmerc.task import Task
from mmerc.training import Listener, Trainer
from shapes import SHAPES, gemm_rate, write_noise

KIBIBYTES = 1 / 1024 if sys.platform == "darwin" else 1.0  # in a unit of ru_maxrss


class Cost(NamedTuple):
    """What one model takes."""

    run: RunConfig
    parameters: int
    seconds: float  # of the best epoch
    gemm_rate: float  # 10⁹ operations a second, in the same process
    loaded: float  # MiB before the first step
    added: float  # MiB that training takes beyond that, at its peak


def measure(folder: Path, run: RunConfig, repeats: int) -> Cost:
    """Train `repeats` epochs on the corpus in `folder`; the process must have done nothing else."""
    torch.set_num_threads(1)
    corpus = Corpus.open(folder)
    trainer = Trainer(
        Task(corpus, run, corpus.split("train"), corpus.split("validation"), seed=0), torch.device("cpu")
    )
    # Noise needs no standardising, whose statistics take more memory for a moment than an epoch does.
    loaded = peak_memory()
    added, times, rates = 0.0, [], []
    for epoch in range(repeats):
        start = time.perf_counter()
        trainer.train_epoch(epoch + 1, np.random.default_rng(epoch), Listener())
        times.append(time.perf_counter() - start)
        if epoch == 0:  # what follows takes memory, too
            added = peak_memory() - loaded
        rates.append(gemm_rate())  # between the epochs: both bests are of the same minutes of the machine
    parameters = sum(p.numel() for p in trainer.pipeline.parameters())
    return Cost(run, parameters, min(times), max(rates), loaded, added)


def peak_memory() -> float:
    """Return the largest resident set so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTES / 1024


def write_shape(folder: Path, shape: str) -> None:
    """Write the corpus, in a process of its own: a child's peak starts at what its parent holds."""
    write_noise(folder, shape)


def costs(shape: str, runs: Sequence[RunConfig], repeats: int) -> Iterator[Cost]:
    """Yield what each run takes, one process after another."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes,
    ):
        corpus = Path(folder) / "corpus"
        processes.submit(write_shape, corpus, shape).result()
        yield from processes.map(measure, [corpus] * len(runs), runs, [repeats] * len(runs))


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="meld")
    parser.add_argument("--models", default=",".join(MODELS), help="names with commas between; default: all")
    parser.add_argument("--preset", help="default: each model's first")
    parser.add_argument("--batch", type=int, default=8, help="dialogues in a batch")
    parser.add_argument("--set", action="append", default=[], help="key=value of every config; repeatable")
    parser.add_argument("--repeats", type=int, default=2, help="epochs, of which the best counts")
    arguments = parser.parse_args()
    preset = {"preset": arguments.preset} if arguments.preset else {}
    batches = {"training": {"epochs": 1, "batch_size": arguments.batch, "batch_utterances": None}}
    try:
        layers = (batches, preset, parse_overrides(arguments.set))
        runs = [resolve(name.strip(), *layers) for name in arguments.models.split(",")]
    except MmercError as error:
        parser.error(str(error))
    shape = SHAPES[arguments.shape]
    print(
        f"{arguments.shape}-shaped noise: {shape.dialogues} dialogues, {shape.utterances} utterances, widths "
        f"{'/'.join(map(str, shape.widths.values()))}, {len(shape.labels)} classes; batches of "
        f"{arguments.batch} dialogues; 1 thread, torch {torch.__version__}; best of {arguments.repeats}\n"
    )
    print("| model | parameters | s per epoch | 10¹² GEMM-equivalents | MiB loaded | MiB added by training |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for cost in costs(arguments.shape, runs, arguments.repeats):
        name = f"{cost.run.model} ({cost.run.preset})" if cost.run.preset else cost.run.model
        print(
            f"| {name} | {cost.parameters:,} | {cost.seconds:.2f} | "
            f"{cost.seconds * cost.gemm_rate / 1000:.2f} | {cost.loaded:.0f} | {cost.added:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
