"""What a training epoch and a test pass of every model cost in time and memory, on generated features.

    python benchmarks/models.py [--shape meld] [--models a,b] [--preset refined] [--threads 1|all|both]

Every model runs in a process of its own, with the batches that its preset says: the model's first preset
and, where there is one, the preset with the sizes of its publication (or the one given). Prints the tables of
docs/performance.md; adds a JSON line per measurement to the history and draws it, unless `--set` makes other
models of them.
"""

import argparse
import math
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from history import Measurement, append, circumstances, draw
from mmerc.batch import length_buckets
from mmerc.config import RunConfig, parse_overrides
from mmerc.corpus import Corpus
from mmerc.errors import MmercError
from mmerc.task import Task
from mmerc.training import Listener, Trainer
from publications import configured, parse_models
from shapes import SHAPES, clock, gemm_rate, write_noise

KIBIBYTES = 1 / 1024 if sys.platform == "darwin" else 1.0  # in a unit of ru_maxrss


# PyTorch knows how much the attention kernels of GPUs compute, not those of the CPU, nor the LSTM kernel that
# computes a padded block (packed steps are single products, which it sees). What pads a block counts.
@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # untyped in torch


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward)
def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]  # untyped


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer)
def _recurrence(x: Any, inner: Any, recurrent: Any, *_: Any, **__: Any) -> int:
    return int(2 * math.prod(x[:-1]) * (math.prod(inner) + math.prod(recurrent)))


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer_backward)
def _recurrence_backward(x: Any, inner: Any, recurrent: Any, *_: Any, **__: Any) -> int:
    return int(4 * math.prod(x[:-1]) * (math.prod(inner) + math.prod(recurrent)))


def measure(
    folder: Path, shape: str, run: RunConfig, threads: Sequence[int], repeats: int
) -> list[Measurement]:
    """Train `repeats` epochs on the corpus in `folder` with each number of threads, in an unused process.

    The memory is that of the first number; what follows it in the same process takes memory, too.
    """
    torch.set_num_threads(threads[0])
    corpus = Corpus.open(folder)
    task = Task(corpus, run, corpus.split("train"), corpus.split("validation"), seed=0)
    trainer = Trainer(task, torch.device("cpu"))
    # Noise needs no standardising, whose statistics take more memory for a moment than an epoch does.
    loaded, peak = peak_memory(), 0.0
    times = []
    for n in threads:
        torch.set_num_threads(n)
        epochs, passes, rates = [], [], []
        for number in range(1, repeats + 1):
            epochs.append(time_epoch(trainer, number, clock(n)))
            peak = peak or peak_memory()
            passes.append(time_test(trainer, clock(n)))
            rates.append(gemm_rate(clock(n)))  # between the epochs: all bests are of the same minutes
        times.append((n, min(epochs), min(passes), max(rates)))
    t = run.training
    facts: dict[str, Any] = {
        **circumstances(),
        "shape": shape,
        "model": run.model,
        "preset": run.preset,
        "batch": f"{t.batch_utterances} utterances" if t.batch_utterances else f"{t.batch_size} dialogues",
        "repeats": repeats,
        "parameters": sum(p.numel() for p in trainer.pipeline.parameters()),
        "arithmetic": arithmetic(trainer),
        "mib_loaded": loaded,
        "mib_added": peak - loaded,
    }
    return [
        Measurement(**facts, threads=n, epoch_seconds=epoch, test_seconds=test, gemm_rate=rate)
        for n, epoch, test, rate in times
    ]


def time_epoch(trainer: Trainer, number: int, now: Callable[[], float]) -> float:
    """Return the seconds of one training epoch, forward to optimizer step, without validation."""
    start = now()
    trainer.train_epoch(number, np.random.default_rng(number), Listener())
    return now() - start


def time_test(trainer: Trainer, now: Callable[[], float]) -> float:
    """Return the seconds of predicting the test split."""
    start = now()
    trainer.pipeline.infer(trainer.examples, trainer.task.corpus.split("test"))
    return now() - start


def arithmetic(trainer: Trainer) -> float:
    """Return the operations of an epoch's matrix products, forward and backward, in 10¹²."""
    c, dialogues = trainer.config, trainer.task.train
    trainer.pipeline.train()
    with FlopCounterMode(display=False) as counter:
        for positions in length_buckets(
            trainer.lengths[dialogues], c.batch_size, np.random.default_rng(0), c.batch_utterances
        ):
            losses, _ = trainer.objective(trainer.examples.batch(dialogues[positions]))
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]  # untyped
    return float(counter.get_total_flops()) / 1e12


def peak_memory() -> float:
    """Return the largest resident set so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTES / 1024


def write_shape(folder: Path, shape: str) -> None:
    """Write the corpus, in a process of its own: a child's peak starts at what its parent holds."""
    write_noise(folder, shape)


def measurements(
    shape: str, runs: Sequence[RunConfig], threads: Sequence[int], repeats: int
) -> Iterator[list[Measurement]]:
    """Yield what each run takes with each number of threads, one process after another."""
    context = multiprocessing.get_context("forkserver")  # which imports once
    context.set_forkserver_preload(["mmerc.training", "matplotlib.figure"])
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes,
    ):
        corpus = Path(folder) / "corpus"
        processes.submit(write_shape, corpus, shape).result()
        for run in runs:
            yield processes.submit(measure, corpus, shape, run, threads, repeats).result()


def print_costs(shape: str, found: Iterator[list[Measurement]], threads: Sequence[int]) -> list[Measurement]:
    """Print the table of a shape, row by row; return what was measured."""
    splits = SHAPES[shape].splits
    print(
        f"**{shape.upper()}**: {splits['train'][0]:,} dialogues, {splits['train'][1]:,} utterances "
        f"(test {splits['test'][0]:,}, {splits['test'][1]:,}), widths "
        f"{'/'.join(map(str, SHAPES[shape].widths.values()))}, {len(SHAPES[shape].labels)} classes\n"
    )
    timed = ["s epoch", "s test", "× arithmetic"]
    columns = [f"{column}, {n} thread{'s' * (n > 1)}" for n in threads for column in timed]
    head = ["model", "batch", "parameters", "arithmetic", *columns, "MiB loaded", "MiB added"]
    print(f"| {' | '.join(head)} |\n| --- | --- |{' ---: |' * (len(head) - 2)}")
    everything = []
    for row in found:
        m = row[0]
        times = [f"{x.epoch_seconds:.2f} | {x.test_seconds:.2f} | {x.times_arithmetic:.1f}" for x in row]
        print(
            f"| {m.name} | {m.batch} | {m.parameters:,} | {m.arithmetic:.3f} | {' | '.join(times)} | "
            f"{m.mib_loaded:.0f} | {m.mib_added:.0f} |",
            flush=True,
        )
        everything += row
    print()
    return everything


def main() -> None:
    """Print the tables, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--models", default="", help="names with commas between; default: all")
    parser.add_argument("--preset", help="default: each model's first, and its publication's")
    parser.add_argument("--threads", choices=["1", "all", "both"], default="both")
    parser.add_argument("--set", action="append", default=[], help="key=value of every config; repeatable")
    parser.add_argument("--repeats", type=int, default=1, help="epochs, of which the best counts")
    parser.add_argument(
        "--history", type=Path, default=Path(__file__).parent / "history", help="folder of the history"
    )
    arguments = parser.parse_args()
    shapes = list(SHAPES) if arguments.shape == "both" else [arguments.shape]
    every = os.cpu_count() or 1
    threads = sorted({"1": {1}, "all": {every}, "both": {1, every}}[arguments.threads])
    try:
        overrides = parse_overrides(arguments.set)
        models = parse_models(arguments.models)
        runs = {shape: configured(models, arguments.preset, shape, overrides) for shape in shapes}
    except MmercError as error:
        parser.error(str(error))
    now = circumstances()
    print(f"{str(now['date'])[:10]}, {now['cpu']}, {every} cores, torch {now['torch']}\n")
    found: list[Measurement] = []
    for shape, configs in runs.items():
        rows = measurements(shape, configs, threads, arguments.repeats)
        found += print_costs(shape, rows, threads)
    if not overrides:
        for measurement in found:
            append(arguments.history, measurement)
        draw(arguments.history)


if __name__ == "__main__":
    main()
