"""Feed every reader files that mean no good, and count how they end.

    python benchmarks/hostile.py [--each 300] [--seed 0]

A reader refuses a file (an error of mmerc's own), handles it (a value), or crashes: any other exception, a
signal, or more than ten seconds of work. Readers run in forks, where 2 GiB are all the memory that there is.
Many of the files (hostile_files.py, hostile_folders.py) try to make a canary; it must never be there.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hostile_files import MAKERS, utterances
from hostile_folders import (
    Files,
    checkpoint_infos,
    configs,
    conversations,
    feature_tables,
    onnx_models,
    states,
    weights,
)
from mmerc.config import parse_overrides, read_yaml
from mmerc.corpora.arrays import read_features
from mmerc.corpora.checking import check
from mmerc.corpora.label_maps import read_label_map
from mmerc.corpora.unpickling import load_pickle
from mmerc.corpus import Corpus, Features, write_corpus
from mmerc.errors import MmercError
from mmerc.evaluation import evaluate
from mmerc.experiments.benchmark import read_settings
from mmerc.features.onnx_models import OnnxModel
from mmerc.media import media_table, read_sources
from mmerc.models import resolve
from mmerc.storage import append_checksum, sha256
from mmerc.task import Task
from mmerc.training import Listener, train

SECONDS, PATIENCE, BYTES = 10, 6, 2 << 30  # of work; on the clock so many times as long


class Honest(NamedTuple):
    """What is whole: a corpus, a run that was cut off after an epoch, a checkpoint; and what the run is."""

    corpus: Path
    run: Path
    checkpoint: Path
    task: Task


class Stopping(Listener):
    """Cuts a run off after its first epoch."""

    def epoch(self, record: dict[str, Any]) -> None:
        """End the run."""
        raise InterruptedError


def honest(folder: Path) -> Honest:
    """Make a corpus whose manifest has no checksums, so that nothing is refused by them, and train on it."""
    corpus = write_corpus(
        folder / "corpus",
        name="x",
        labels=("a", "b"),
        utterances=utterances(),
        features={"text": Features(np.zeros((4, 5), np.float32), np.ones(4, bool), {})},
        provenance={"media_root": str(folder)},
        tables={"media": media_table({"audio_file": ["a.wav"] * 4})},
    )
    path = corpus.path / "corpus.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"files": {}, "sha256": ""}), encoding="utf-8")
    corpus = Corpus.open(corpus.path)
    small = {"network": {"hidden": 6, "context_hidden": 4}, "training": {"epochs": 2}}
    task = Task(corpus, resolve("text-only", small), corpus.split("train"), corpus.split("validation"), 0)
    with suppress(InterruptedError):
        train(task, folder / "run", device="cpu", listener=Stopping())
    train(task, folder / "checkpoint", device="cpu")
    return Honest(corpus.path, folder / "run", folder / "checkpoint", task)


def read_all(corpus: Corpus) -> object:
    """Look at all of a corpus, as the commands do between them."""
    found: list[object] = [check(corpus, deep=True), corpus.targets, corpus.folds, corpus.texts]
    for number in range(len(corpus.dialogue_ids)):
        found.append(corpus.conversation(number))
    for ask in (lambda: corpus.split("train"), lambda: corpus.fold(0)):
        with suppress(MmercError):
            found.append(ask())
    return found


def readers(whole: Honest) -> dict[str, Callable[[Path], object]]:
    """What reads files of each family."""
    corpus, checkpoint = whole.corpus, whole.checkpoint
    content = {p: p.read_bytes() for f in whole[:3] for p in f.rglob("*") if p.is_file()}

    def in_place_of(name: str, look: Callable[[Corpus], object]) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            (corpus / name).write_bytes(path.read_bytes())
            try:
                return look(Corpus.open(corpus))
            finally:
                (corpus / name).write_bytes(content[corpus / name])

        return read

    def as_part_of_checkpoint(name: str) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            for other in ("config.yaml", "model.safetensors", "checkpoint.json"):
                (checkpoint / other).write_bytes(content[checkpoint / other])
            (checkpoint / name).write_bytes(path.read_bytes())
            if name != "checkpoint.json":
                info = json.loads(content[checkpoint / "checkpoint.json"])
                sums = {
                    "config_sha256": sha256(checkpoint / "config.yaml"),
                    "weights_sha256": sha256(checkpoint / "model.safetensors"),
                }
                text = json.dumps(info | sums | {"sha256": ""})
                (checkpoint / "checkpoint.json").write_text(text, encoding="utf-8")
            return evaluate(checkpoint, Corpus.open(corpus), "train", device="cpu")

        return read

    def as_state(path: Path) -> object:
        for other in whole.run.iterdir():
            other.unlink()
        append_checksum(path)
        path.rename(whole.run / "state.pt")
        return train(whole.task, whole.run, resume=True, device="cpu")

    def as_features(suffix: str) -> Callable[[Path], object]:
        return lambda path: read_features(Path(path.rename(path.with_suffix(suffix))))

    def as_config(path: Path) -> object:
        values = read_yaml(path)
        return resolve(str(values.get("model", "df-erc")), values)

    def as_model(path: Path) -> object:
        model = OnnxModel(Path(path.rename(path.with_suffix(".onnx"))))
        return model(np.zeros((1, 3), np.float32), [port.name for port in model.outputs])

    def as_override(path: Path) -> object:
        return parse_overrides(["training=" + path.read_text(encoding="utf-8", errors="replace")])

    return {
        "pickles": load_pickle,
        "safetensors, imported": as_features(".safetensors"),
        "safetensors of a corpus": in_place_of("features/text.safetensors", read_all),
        "Parquet, imported": as_features(".parquet"),
        "Parquet, utterances": in_place_of("utterances.parquet", read_all),
        "Parquet, media": in_place_of("media.parquet", lambda c: read_sources(c, "visual")),
        "utterances of the right types": in_place_of("utterances.parquet", read_all),
        "npz": as_features(".npz"),
        "YAML, configs": as_config,
        "YAML, `--set`": as_override,
        "YAML, settings of a benchmark": read_settings,
        "YAML, label maps": read_label_map,
        "corpus.json": in_place_of("corpus.json", read_all),
        "checkpoint.json": as_part_of_checkpoint("checkpoint.json"),
        "config.yaml of a checkpoint": as_part_of_checkpoint("config.yaml"),
        "model.safetensors of a checkpoint": as_part_of_checkpoint("model.safetensors"),
        "state.pt of a run": as_state,
        "ONNX": as_model,
    }


def files(reader: str, rng: random.Random, each: int, canary: Path, whole: Honest) -> Files:
    """Return the hostile files that are for a reader."""
    deeper: dict[str, Callable[[], Files]] = {
        "safetensors of a corpus": lambda: feature_tables(rng, each),
        "utterances of the right types": lambda: conversations(rng, each),
        "checkpoint.json": lambda: checkpoint_infos(rng, each, read(whole.checkpoint / "checkpoint.json")),
        "config.yaml of a checkpoint": lambda: configs(rng, each, read(whole.checkpoint / "config.yaml")),
        "model.safetensors of a checkpoint": lambda: weights(
            rng, each, read(whole.checkpoint / "model.safetensors")
        ),
        "state.pt of a run": lambda: states(rng, each, read(whole.run / "state.pt"), canary),
        "ONNX": lambda: onnx_models(rng, each),
    }
    read = Path.read_bytes
    return deeper[reader]() if reader in deeper else MAKERS[reader.split(",")[0]](rng, each, canary)


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """Read a file in a fork with limits; return `refused`, `handled`, or what happened."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            used = (
                int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
            )
            resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.alarm(PATIENCE * SECONDS)
            try:
                read(path)
                said = "handled"
            except MmercError:
                said = "refused"
            except BaseException as error:
                said = f"crashed: {type(error).__name__}: {error}"[:200]
            os.write(there, said.encode())
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said or f"crashed: signal {-status}"


def tried(each: int, seed: int, folder: Path, only: Sequence[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Yield (reader, file, outcome) for every reader and every file of its family."""
    torch.set_num_threads(1)
    canary = folder / "canary"
    whole = honest(folder)
    for name, read in readers(whole).items():
        if only and name not in only:
            continue
        for title, content in files(name, random.Random(seed), each, canary, whole):
            path = folder / "hostile.file"
            path.write_bytes(content)
            yield name, title, outcome(read, path)
            for left in folder.glob("hostile.*"):
                left.unlink()
            if canary.exists():
                canary.unlink()
                yield name, title, "crashed: the canary was there"


def main() -> None:
    """Print the table of docs/reliability.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--each", type=int, default=300, help="random files per reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="readers, named as in the table")
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        for reader, title, said in tried(options.each, options.seed, Path(name), options.only):
            counts.setdefault(reader, Counter())[said.split(":")[0]] += 1
            if said.startswith("crashed"):
                sys.stderr.write(f"{reader}: {title}: {said}\n")
    print("| reader | tried | refused | handled | crashed |\n| --- | --- | --- | --- | --- |")
    for reader, c in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"| {reader} | {c.total()} | {c['refused']} | {c['handled']} | {c['crashed']} |")


if __name__ == "__main__":
    main()
