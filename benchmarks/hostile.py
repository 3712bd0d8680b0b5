"""Feed every reader files that mean no good, and count how they end.

    python benchmarks/hostile.py [--each 300] [--seed 0]

A reader refuses a file (an error of mmerc's own), handles it (a value), or crashes: any other exception, a
signal, or more than ten seconds. Readers run in forks, where 2 GiB are all the memory that there is. Many
of the files (hostile_files.py) try to make a canary; it must never be there.
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
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from hostile_files import MAKERS, utterances
from mmerc.checkpoint import load_checkpoint
from mmerc.config import parse_overrides, read_yaml
from mmerc.corpora.arrays import read_features
from mmerc.corpora.label_maps import read_label_map
from mmerc.corpora.unpickling import load_pickle
from mmerc.corpus import Corpus, Features, write_corpus
from mmerc.errors import MmercError
from mmerc.experiments.benchmark import read_settings
from mmerc.media import media_table, read_sources
from mmerc.models import resolve

SECONDS, BYTES = 10, 2 << 30


def sound_corpus(folder: Path) -> Path:
    """A corpus whose manifest has no checksums, so that nothing is refused by them."""
    features = {"text": Features(np.zeros((4, 5), np.float32), np.ones(4, bool), {})}
    media = {"media": media_table({"audio_file": ["a.wav"] * 4})}
    provenance = {"media_root": str(folder)}
    write_corpus(
        folder,
        name="x",
        labels=("a", "b"),
        utterances=utterances(),
        features=features,
        provenance=provenance,
        tables=media,
    )
    path = folder / "corpus.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"files": {}, "sha256": ""}), encoding="utf-8")
    return folder


def readers(folder: Path) -> dict[str, Callable[[Path], object]]:
    """What reads files of each family, in a folder of its own."""
    corpus = sound_corpus(folder / "corpus")
    whole = {p: p.read_bytes() for p in corpus.rglob("*") if p.is_file()}
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()

    def in_place_of(name: str, look: Callable[[Corpus], object]) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            (corpus / name).write_bytes(path.read_bytes())
            try:
                return look(Corpus.open(corpus))
            finally:
                (corpus / name).write_bytes(whole[corpus / name])

        return read

    def as_features(suffix: str) -> Callable[[Path], object]:
        return lambda path: read_features(Path(path.rename(path.with_suffix(suffix))))

    def as_config(path: Path) -> object:
        values = read_yaml(path)
        return resolve(str(values.get("model", "df-erc")), values)

    def as_checkpoint(path: Path) -> object:
        (checkpoint / "checkpoint.json").write_bytes(path.read_bytes())
        (checkpoint / "config.yaml").write_text("model: text-only\n", encoding="utf-8")
        return load_checkpoint(checkpoint)

    def as_override(path: Path) -> object:
        return parse_overrides(["training=" + path.read_text(encoding="utf-8", errors="replace")])

    return {
        "pickles": load_pickle,
        "safetensors, imported": as_features(".safetensors"),
        "safetensors of a corpus": in_place_of("features/text.safetensors", lambda c: c.features("text")),
        "Parquet, imported": as_features(".parquet"),
        "Parquet, utterances": in_place_of("utterances.parquet", lambda c: (c.targets, c.folds, c.texts)),
        "Parquet, media": in_place_of("media.parquet", lambda c: read_sources(c, "visual")),
        "npz": as_features(".npz"),
        "YAML, configs": as_config,
        "YAML, `--set`": as_override,
        "YAML, settings of a benchmark": read_settings,
        "YAML, label maps": read_label_map,
        "corpus.json": in_place_of("corpus.json", lambda c: [c.features(m) for m in c.modalities]),
        "checkpoint.json": as_checkpoint,
    }


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
            signal.alarm(SECONDS)
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


def tried(each: int, seed: int, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (reader, file, outcome) for every reader and every file of its family."""
    torch.set_num_threads(1)
    canary = folder / "canary"
    for name, read in readers(folder).items():
        rng = random.Random(seed)
        for title, content in MAKERS[name.split(",")[0].split(" of ")[0]](rng, each, canary):
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
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        for reader, title, said in tried(options.each, options.seed, Path(name)):
            counts.setdefault(reader, Counter())[said.split(":")[0]] += 1
            if said.startswith("crashed"):
                sys.stderr.write(f"{reader}: {title}: {said}\n")
    print("| reader | tried | refused | handled | crashed |\n| --- | --- | --- | --- | --- |")
    for reader, c in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"| {reader} | {c.total()} | {c['refused']} | {c['handled']} | {c['crashed']} |")


if __name__ == "__main__":
    main()
