"""One flipped bit, anywhere in any file of a corpus, a checkpoint or a run, is found and named."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmerc.analysis.frozen_run import read_run
from mmerc.checkpoint import load_checkpoint
from mmerc.corpora.checking import check
from mmerc.corpus import Corpus, Features, add_table, write_corpus
from mmerc.errors import CheckpointError, CorpusError, TrainingError
from mmerc.evaluation import evaluate
from mmerc.examples import Examples
from mmerc.experiments.cells import fingerprint
from mmerc.manifest import Manifest, file_sums, read_manifest, seal
from mmerc.media import media_table, read_sources
from mmerc.training import train
from tiny import LABELS, config, make_bert, tables, task

FLIPS = 25  # per file


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus with everything that one can have."""
    folder = tmp_path_factory.mktemp("corpus") / "whole"
    frame, features = tables()
    media = media_table({"audio_file": ["a.wav"] * len(frame)})
    written = write_corpus(
        folder,
        name="whole",
        labels=LABELS,
        utterances=frame,
        features={"audio": features["audio"]},
        provenance={"media_root": str(folder.parent), "sha256": "", "weight": 1e-05},
        tables={"media": media, "truth": frame[["label"]]},
    )
    return add_table(written.add_modality("text", features["text"]), "absent", frame[["dialogue_id"]])


@pytest.fixture(scope="module")
def run_folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    bert = make_bert(tmp_path_factory.mktemp("bert"))
    train(task(corpus, config(epochs=1, text_encoder={"name": str(bert)})), out)
    return out


def flipped(path: Path, count: int = FLIPS) -> Iterator[str]:
    """Flip one random bit of a file after the other; the file is whole again at the end."""
    whole = path.read_bytes()
    generator = np.random.default_rng(len(whole))
    for place in generator.integers(len(whole), size=count):
        bit = 1 << int(generator.integers(8))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        yield f"{path.name}: byte {place}, bit {bit}"
    path.write_bytes(whole)


def assert_found(path: Path, look: Callable[[], object], kind: type[Exception]) -> None:
    for where in flipped(path):
        with pytest.raises(kind) as caught:
            look()
        assert path.name in str(caught.value), where


@pytest.mark.parametrize("name", ["corpus.json", "utterances.parquet"])
def test_in_what_opening_a_corpus_reads(corpus: Corpus, tmp_path: Path, name: str) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    assert_found(own / name, lambda: Corpus.open(own), CorpusError)
    assert len(Corpus.open(own)) == len(corpus)


def test_in_where_the_media_are(corpus: Corpus, tmp_path: Path) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    assert_found(own / "media.parquet", lambda: read_sources(Corpus.open(own), "audio"), CorpusError)


@pytest.mark.slow
def test_in_every_file_of_a_corpus_by_a_deep_check(corpus: Corpus, tmp_path: Path) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    opened = Corpus.open(own)
    assert {p.field for p in check(opened, deep=True)} == {p.field for p in check(opened)}  # nothing new
    names = sorted(str(p.relative_to(own)) for p in own.rglob("*") if p.is_file())
    assert set(opened.manifest.files) == set(names) - {"corpus.json"}
    assert len(names) == 7
    for name in opened.manifest.files:
        for where in flipped(own / name, 5):
            found = [p for p in check(opened, deep=True) if "is damaged: its checksum" in p.message]
            assert [(p.severity, p.field) for p in found] == [("error", name)], where


def test_in_features_before_an_experiment_starts(corpus: Corpus, tmp_path: Path) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    assert_found(own / "features/text.safetensors", lambda: fingerprint(Corpus.open(own)), CorpusError)


@pytest.mark.parametrize("name", ["audio", "text"])
def test_in_features_that_a_run_trains_on(corpus: Corpus, tmp_path: Path, name: str) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    run = config("late-fusion")

    def look() -> None:
        train(task(Corpus.open(own), run), tmp_path / "run")

    assert_found(own / f"features/{name}.safetensors", look, CorpusError)
    assert not (tmp_path / "run").exists()  # nothing was trained on them


@pytest.mark.slow
@pytest.mark.parametrize("read", [evaluate, read_run])
def test_in_features_that_are_predicted_on(
    corpus: Corpus, tmp_path: Path, read: Callable[[Path, Corpus], object]
) -> None:
    train(task(corpus, config("late-fusion", epochs=1)), tmp_path / "run")
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    for name in ("audio", "text"):
        path = own / f"features/{name}.safetensors"
        assert_found(path, lambda: read(tmp_path / "run", Corpus.open(own)), CorpusError)
    read(tmp_path / "run", Corpus.open(own))


def test_features_are_compared_once_for_a_corpus_that_was_opened(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def note(folder: Path, manifest: Manifest, name: str) -> None:
        read.append(name)

    opened = Corpus.open(corpus.path)
    monkeypatch.setattr("mmerc.corpus.require_intact", note)
    opened.features("text")
    assert not read  # to look at a corpus is not to read it
    for modalities in (["text"], ["audio", "text"], ["audio"]):
        Examples.from_corpus(opened, modalities)
    assert read == ["features/text.safetensors", "features/audio.safetensors"]


@pytest.mark.slow
def test_in_every_file_of_a_checkpoint_but_its_model_card(run_folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run_folder, tmp_path / "own"))
    files = [own / "config.yaml", own / "checkpoint.json", own / "model.safetensors"]
    files += sorted((own / "encoder").iterdir())
    assert len(files) >= 6
    for path in files:
        assert_found(path, lambda: load_checkpoint(own), CheckpointError)
    load_checkpoint(own)


@pytest.mark.slow
def test_in_the_state_of_a_run(corpus: Corpus, run_folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run_folder, tmp_path / "own"))
    run = load_checkpoint(own).run
    assert_found(own / "state.pt", lambda: train(task(corpus, run), own, resume=True), TrainingError)
    assert train(task(corpus, run), own, resume=True).epoch == 1


# Older folders, and changes on purpose


def test_a_corpus_without_checksums_opens_and_is_sealed_on_request(corpus: Corpus, tmp_path: Path) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    content = json.loads((own / "corpus.json").read_text(encoding="utf-8"))
    del content["files"], content["sha256"]
    (own / "corpus.json").write_text(json.dumps(content), encoding="utf-8")
    old = Corpus.open(own)
    assert fingerprint(old) == fingerprint(corpus)  # what is done stays done
    assert any("no checksums" in p.message for p in check(old, deep=True))
    rows = len(old)
    added = old.add_modality("more", Features(np.ones((rows, 2), np.float32), np.ones(rows, bool), {}))
    assert added.manifest.files == {}
    seal(own)
    assert Corpus.open(own).manifest.files == file_sums(own)


def test_a_change_on_purpose_is_sealed(corpus: Corpus, tmp_path: Path) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    frame = pd.read_parquet(own / "utterances.parquet").assign(split="train")
    frame.to_parquet(own / "utterances.parquet")
    text = (own / "corpus.json").read_text(encoding="utf-8")
    (own / "corpus.json").write_text(text.replace('"whole"', '"mine"', 1), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"corpus\.json is damaged.*on purpose, `mmerc corpus seal"):
        Corpus.open(own)
    seal(own)
    opened = Corpus.open(own)
    assert (opened.name, set(opened.utterances["split"])) == ("mine", {"train"})


def test_files_that_are_missing_or_strange_are_told(corpus: Corpus, tmp_path: Path) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    (own / "truth.parquet").unlink()
    (own / "notes.txt").touch()
    (own / ".hidden").touch()
    found = {(p.severity, p.field) for p in check(Corpus.open(own), deep=True)}
    assert found >= {("error", "truth.parquet"), ("warning", "notes.txt")}
    assert not any(field == ".hidden" for _, field in found)


# Interruptions


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.mark.parametrize("name", ["text", "visual"])
def test_an_addition_that_is_cut_leaves_a_sound_corpus(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = len(corpus)
    new = Features(np.ones((rows, 7), np.float32), np.ones(rows, bool), {"kind": "new"})
    replace = Path.replace
    outcomes = set()
    for cut in range(4):
        own = Path(shutil.copytree(corpus.path, tmp_path / str(cut)))
        opened = Corpus.open(own)
        renames = iter(range(10))

        def until(self: Path, target: Path, cut: int = cut, renames: Iterator[int] = renames) -> Path:
            if next(renames) == cut:
                raise Killed
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", until)
        with contextlib.suppress(Killed):
            opened.add_modality(name, new)
        monkeypatch.undo()
        again = Corpus.open(own)
        assert not [p for p in check(again, deep=True) if p.severity == "error"]
        outcomes.add(again.modalities[name].width if name in again.modalities else None)
        again.add_modality(name, new)
        assert read_manifest(own) == Corpus.open(own).manifest
        assert Corpus.open(own).modalities[name].width == 7
    assert outcomes == ({5, None, 7} if name == "text" else {None, 7})


def test_another_corpus_in_the_same_place_is_noticed(corpus: Corpus, tmp_path: Path) -> None:
    own = Path(shutil.copytree(corpus.path, tmp_path / "own"))
    opened = Corpus.open(own)
    frame, _ = tables(7)
    write_corpus(own, name="other", labels=LABELS, utterances=frame, features={}, provenance={})
    rows = len(opened)
    with pytest.raises(CorpusError, match="was replaced by another corpus meanwhile"):
        opened.add_modality("x", Features(np.ones((rows, 2), np.float32), np.ones(rows, bool), {}))
