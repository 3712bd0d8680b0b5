"""Where a training epoch's time goes, and how long one dialogue takes to predict, on generated features.

    python benchmarks/speed.py [--models df-erc,mm-dfn] [--preset refined] [--shape meld] [--threads 1]

Prints the tables of docs/performance.md: the shares of an epoch's parts (forward to optimizer step) and its
largest operators, each measured in an epoch over so many dialogues; and the latency of 10 utterances.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from mmerc.config import RunConfig
from mmerc.conversation import Conversation, Utterance
from mmerc.corpus import Corpus
from mmerc.errors import MmercError
from mmerc.recognizer import load
from mmerc.task import Task
from mmerc.training import Listener, Trainer, train
from publications import PUBLICATIONS, configured, parse_models
from shapes import SHAPES, clock, write_noise

CPU = torch.device("cpu")
# Parts of an epoch → the file and function whose cumulative time it is.
PARTS = {
    "forward and losses": ("mmerc/optimization.py", "forward"),
    "backward": ("torch/_tensor.py", "backward"),
    "optimizer": ("torch/optim/optimizer.py", "wrapper"),
    "clipping": ("torch/nn/utils/clip_grad.py", "clip_grad_norm_"),
    "batches": ("mmerc/examples.py", "batch"),
}


def parts(task: Task, now: Callable[[], float]) -> list[float]:
    """Return the share of each part in one training epoch, and of the rest."""
    trainer, profiler = Trainer(task, CPU), cProfile.Profile(now)
    profiler.runcall(trainer.train_epoch, 1, np.random.default_rng(0), Listener())
    stats = pstats.Stats(profiler)
    rows = stats.stats.items()  # type: ignore[attr-defined]  # not in typeshed
    found = [
        sum(row[3] for (file, _, name), row in rows if file.endswith(ending) and name == function)
        for ending, function in PARTS.values()
    ]
    total = float(stats.total_tt)  # type: ignore[attr-defined]  # not in typeshed
    return [seconds / total for seconds in (*found, total - sum(found))]


def operators(task: Task, count: int = 8) -> dict[str, float]:
    """Return the share of the largest operators in one training epoch, and of the time outside of all."""
    trainer = Trainer(task, CPU)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        start = time.perf_counter()
        trainer.train_epoch(1, np.random.default_rng(0), Listener())
        total = 1e6 * (time.perf_counter() - start)
    events = profiler.key_averages()
    times = {event.key: event.self_cpu_time_total / total for event in events}
    largest = sorted(times, key=lambda name: -times[name])[:count]
    return {name.removeprefix("aten::"): times[name] for name in largest} | {
        "outside of operators": 1 - sum(times.values())
    }


def latency(task: Task, folder: Path, now: Callable[[], float], repeats: int = 200) -> tuple[float, float]:
    """Return median and 95th percentile of the milliseconds for a dialogue of 10 utterances."""
    train(task, folder, device="cpu")
    recognizer = load(folder, "cpu")
    rng, widths = np.random.default_rng(1), {m: x.width for m, x in task.corpus.modalities.items()}
    utterances = tuple(
        Utterance(features={m: rng.standard_normal(d).astype(np.float32) for m, d in widths.items()})
        for _ in range(10)
    )
    conversation = Conversation(utterances)
    times = []
    for _ in range(repeats):
        start = now()
        recognizer.predict(conversation)
        times.append(1000 * (now() - start))
    median, late = np.quantile(times, [0.5, 0.95])
    return float(median), float(late)


def print_profile(corpus: Corpus, runs: list[RunConfig], dialogues: int, folder: Path) -> None:
    """Print a row of shares and latency for each run, then a row of operators."""
    now = clock(torch.get_num_threads())
    head = [*PARTS, "rest", "10 utterances: ms, median / 95 %"]
    print(f"| share of an epoch, % | {' | '.join(head)} |\n| --- |{' ---: |' * len(head)}")
    tasks = {
        f"{run.model} ({run.preset})" if run.preset else run.model: Task(
            corpus,
            replace(run, training=replace(run.training, epochs=1)),
            corpus.split("train")[:dialogues],
            corpus.split("validation"),
            seed=0,
        )
        for run in runs
    }
    for number, (name, task) in enumerate(tasks.items()):
        shares = " | ".join(f"{100 * share:.0f}" for share in parts(task, now))
        median, late = latency(task, folder / f"run-{number}", now)
        print(f"| {name} | {shares} | {median:.1f} / {late:.1f} |", flush=True)
    print("\n| model | largest operators, % of an epoch |\n| --- | --- |")
    for name, task in tasks.items():
        shares = ", ".join(f"{operator} {100 * share:.0f}" for operator, share in operators(task).items())
        print(f"| {name} | {shares} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    profiled = [name for name in PUBLICATIONS if name != "mmgcn"]
    parser.add_argument("--models", default=",".join(profiled), help="names with commas between")
    parser.add_argument("--preset", help="default: each model's first, and its publication's")
    parser.add_argument("--shape", choices=SHAPES, default="meld")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dialogues", type=int, default=256, help="of the training split")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        runs = configured(parse_models(arguments.models), arguments.preset, arguments.shape, {})
    except MmercError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_noise(Path(folder) / "corpus", arguments.shape)
        print_profile(corpus, runs, arguments.dialogues, Path(folder))


if __name__ == "__main__":
    main()
