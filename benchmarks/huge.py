"""What a corpus larger than memory costs: resident memory and the time of a step, by size of the corpus.

    OMP_NUM_THREADS=1 python benchmarks/huge.py [--utterances 50000,500000,5000000] [--steps 100] [--epoch]

For each size a corpus of noise is written in chunks, and late fusion trains on it in a process of its own: so
many steps (`--epoch`: all of an epoch), and what goes before and after an epoch. Prints a Markdown row for
each station: seconds, and the memory of the process at its largest, sampled every 20 ms. *own* is what only
this process holds (RssAnon). *mapped* are pages of files (RssFile): the libraries' code, and features that
were read. *both* are resident at once. Last comes what the system itself has seen as the most (VmHWM).
"""

import argparse
import json
import multiprocessing
import re
import struct
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mmerc.corpus import SCHEMA, Corpus
from mmerc.examples import Examples
from mmerc.manifest import FORMAT, Manifest, Modality, file_sums, write_manifest
from mmerc.models import resolve
from mmerc.task import Task
from mmerc.training import Listener, Trainer

WIDTHS = {"text": 64, "audio": 32, "visual": 16}
LABELS = ("neutral", "joy", "anger", "sadness")
DIALOGUE = 10  # utterances
CHUNK = 50_000
TEXT = "what one says in some six to ten words or so"


def write_huge(folder: Path, utterances: int) -> None:
    """Write a corpus of noise, chunk by chunk; one dialogue in a hundred is of the validation split."""
    features = folder / "features"
    features.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, width in WIDTHS.items():
        write_noise(features / f"{name}.safetensors", utterances, width, rng)
    with pq.ParquetWriter(folder / "utterances.parquet", SCHEMA) as writer:
        for start in range(0, utterances, CHUNK):
            writer.write_table(some_utterances(np.arange(start, min(start + CHUNK, utterances)), rng))
    manifest = Manifest(
        format=FORMAT,
        name="huge",
        labels=LABELS,
        modalities={m: Modality(width=d, recipe={"kind": "noise"}) for m, d in WIDTHS.items()},
        provenance={},
    )
    write_manifest(folder, manifest.model_copy(update={"files": file_sums(folder)}))


def write_noise(path: Path, rows: int, width: int, rng: np.random.Generator) -> None:
    """Write a feature file; safetensors itself would want the whole table at once."""
    size = 4 * rows * width
    header = {
        "values": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, size]},
        "present": {"dtype": "BOOL", "shape": [rows], "data_offsets": [size, size + rows]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, rows, CHUNK):
            file.write(rng.standard_normal((min(CHUNK, rows - start), width), dtype=np.float32).tobytes())
        file.write(b"\x01" * rows)


def some_utterances(rows: np.ndarray[Any, Any], rng: np.random.Generator) -> pa.Table:
    """Return these rows of the utterance table."""
    dialogues = rows // DIALOGUE
    columns: dict[str, Any] = {
        "dialogue_id": [f"dialogue-{d}" for d in dialogues],
        "utterance_index": rows % DIALOGUE,
        "speaker": rng.choice([*"ABC"], len(rows)),
        "text": [TEXT] * len(rows),
        "start_ms": 3000 * rows,
        "end_ms": 3000 * rows + 2500,
        "label": rng.choice(LABELS, len(rows)),
        "split": np.where(dialogues % 100 == 99, "validation", "train"),
    }
    return pa.table([pa.array(columns.get(f.name, [None] * len(rows)), f.type) for f in SCHEMA], SCHEMA)


def resident(*names: str) -> list[int]:
    """Return figures of /proc/self/status, in MiB."""
    status = Path("/proc/self/status").read_text()
    return [int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) // 1024 for name in names]


class Meter:
    """Time and peak memory of the stations of a process: own, mapped, both."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, list[int]]] = []

    @contextmanager
    def station(self, name: str) -> Iterator[None]:
        """Note what the block takes."""
        figures = "RssAnon", "RssFile", "VmRSS"
        samples, over = [resident(*figures)], Event()

        def watch() -> None:
            while not over.wait(0.02):
                samples.append(resident(*figures))

        watcher = Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            over.set()
            watcher.join()
        samples.append(resident(*figures))
        self.rows.append((name, seconds, [max(column) for column in zip(*samples, strict=True)]))


class EnoughError(Exception):
    """All steps that were asked for are taken."""


class Some(Trainer):
    """A trainer that breaks the epoch off, and knows how many steps it took."""

    limit: int | None = None
    times: list[float]

    def _step(self, batch: Any) -> dict[str, torch.Tensor]:
        if self.limit is not None and len(self.times) > self.limit:
            raise EnoughError
        self.times.append(time.perf_counter())
        return super()._step(batch)


def measure(folder: Path, steps: int | None) -> tuple[list[tuple[str, float, list[int]]], float, int]:
    """Train in this process; return the stations, the median seconds of a step, and the steps of an epoch."""
    torch.set_num_threads(1)
    meter = Meter()
    with meter.station("before"):
        run = resolve("late-fusion", {"training": {"epochs": 1}})
    with meter.station("open"):
        corpus = Corpus.open(folder)
    with meter.station("splits and labels"):
        task = Task(corpus, run, corpus.split("train"), corpus.split("validation"), seed=0)
        assert len(corpus.targets) == len(corpus)
    with meter.station("check the features (checksums, finite), index the speakers"):
        Examples.from_corpus(corpus, list(WIDTHS))
    with meter.station("the trainer, of it the line above"):
        trainer = Some(task, torch.device("cpu"))
    trainer.limit, trainer.times = steps, []
    with meter.station("statistics for standardising"):
        trainer.fit_statistics()
    with meter.station("an epoch's steps" if steps is None else f"{steps} steps"), suppress(EnoughError):
        trainer.train_epoch(1, np.random.default_rng(0), Listener())
    with meter.station("validation (1 % of the corpus)"):
        trainer._validate(Listener())
    with meter.station("state.pt"):
        trainer.save(folder / "state.pt")
    meter.rows.append(("the system's own figure", 0.0, [0, 0, *resident("VmHWM")]))
    per_epoch = sum(1 for _ in trainer._batches(np.random.default_rng(0)))
    return meter.rows, float(np.median(np.diff(trainer.times[10:]))), per_epoch


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", default="50000,500000,5000000")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--epoch", action="store_true", help="take all steps of the epoch")
    parser.add_argument("--folder", type=Path, help="where the corpora are for the time being (2.5 GB)")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for size in map(int, arguments.utterances.split(",")):
        with (
            tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
            ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes,
        ):
            write_huge(Path(folder) / "corpus", size)
            steps = None if arguments.epoch else arguments.steps
            rows, step, per_epoch = processes.submit(measure, Path(folder) / "corpus", steps).result()
            print(f"\n{size:,} utterances: {1000 * step:.1f} ms a step, {per_epoch} steps an epoch")
            print(f"\n| station | seconds | own, MiB | mapped, MiB | both, MiB |\n| --- |{4 * ' ---: |'}")
            for name, seconds, peaks in rows:
                print(f"| {name} | {seconds:.2f} | {' | '.join(map(str, peaks))} |", flush=True)


if __name__ == "__main__":
    main()
