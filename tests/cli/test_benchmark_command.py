import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mmerc.corpus import Corpus
from mmerc.evaluation import evaluate
from mmerc.experiments import cells, tracking
from mmerc.metrics import summarise
from tiny import SMALL, in_this_process, tables, write

Command = Callable[..., tuple[int, str, str]]
MODELS = ("late-fusion", "text-only")
SETTINGS = {
    "*": {
        "*": {"preset": "plain", "training": {"epochs": 2, "batch_size": 4, "warmup_steps": 2}},
        **{model: {"network": SMALL[model]} for model in MODELS},
    }
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Corpus]:
    """One with splits, called meld, and one with folds alone."""
    folder = tmp_path_factory.mktemp("corpora")
    frame, features = tables()
    return [
        write(folder / "splits", frame.assign(fold=None), features, name="meld"),
        write(folder / "folds", frame.assign(split=None), features, name="folds"),
    ]


@pytest.fixture
def benchmark(mmerc: Command, corpora: list[Corpus], tmp_path: Path) -> Command:
    """Benchmark both models on both corpora in the folder `out`, unless told otherwise.

    What is returned second is all that a user sees on a terminal.
    """

    def call(*arguments: Any, **options: Any) -> tuple[int, str, str]:
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
        given = {
            "models": ",".join(MODELS),
            "corpora": ",".join(str(corpus.path) for corpus in corpora),
            "out": tmp_path / "out",
            "seeds": 2,
            "settings": tmp_path / "settings.yaml",
            "device": "cpu",
            **options,
        }
        code, out, err = mmerc("benchmark", *arguments, *(x for k, v in given.items() for x in (f"--{k}", v)))
        return code, out + err, err

    return call


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "side_by_side", in_this_process)


def rows_of(out: Path, corpus: str) -> list[dict[str, Any]]:
    content = json.loads((out / corpus / "benchmark.json").read_text(encoding="utf-8"))
    assert content["corpus"] == corpus
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def assert_refused(result: tuple[int, str, str], *said: str) -> None:
    code, _, err = result
    assert code == 2
    assert any(line.startswith("error: ") for line in err.splitlines())
    assert "Traceback" not in err
    for part in said:
        assert part in err


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_whole_road(mmerc: Command, benchmark: Command, corpora: list[Corpus], tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, err = benchmark()
    assert code == 0, err
    assert "16 run(s) in 4 row(s): 0 done, 16 to go" in said
    for corpus in corpora:
        files = [out / corpus.name / f"benchmark.{ending}" for ending in ("md", "tex", "csv", "json")]
        assert all(file.exists() for file in files)
        assert all(str(file) in said for file in files)
        rows = rows_of(out, corpus.name)
        assert {row["name"] for row in rows} == {*MODELS}
        assert pd.read_csv(files[2])["name"].tolist() == [row["name"] for row in rows]
        for row in rows:
            found = [e.scores for e in evaluate(out / corpus.name / row["name"], corpus)]
            assert row["test"] == json.loads(json.dumps(summarise(found).to_dict()))
            assert str(summarise(found).weighted_f1) in said
            assert str(summarise(found).weighted_f1) in files[0].read_text(encoding="utf-8")
    assert "meld, test split, %, mean ± sd over 2 seeds" in said
    assert "folds, test folds pooled, %, mean ± sd over 2 seeds" in said
    folder = out / "folds" / "text-only"
    code, _, err = mmerc("evaluate", folder, "--corpus", corpora[1].path)
    assert code == 0, err
    assert rows_of(out, "folds")[0]["test"]["runs"] == 2

    before = {p: p.stat().st_mtime_ns for p in out.glob("*/*/**/*") if p.is_file()}
    code, again, err = benchmark("--reference", "text-only")
    assert code == 0, err
    assert "16 run(s) in 4 row(s): 16 done, 0 to go" in again
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert all(row.get("against", "text-only") == "text-only" for row in rows_of(out, "meld"))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_what_choosing_on_test_would_report(
    benchmark: Command, corpora: list[Corpus], tmp_path: Path
) -> None:
    out, corpus = tmp_path / "out", corpora[0].path
    code, said, err = benchmark("--oracle", corpora=corpus)
    assert code == 0, err
    assert "4 run(s) in 2 row(s): 0 done, 4 to go" in said
    assert "oracle epoch" in said
    assert "not a result" in said
    watched = rows_of(out, "meld")
    for row in watched:
        assert row.pop("oracle_weighted_f1").keys() == {"mean", "sd"}
        assert row.pop("oracle_weighted_f1_by_seed").keys() == {"0", "1"}
    assert (out / "meld" / "text-only" / "seed-0" / "oracle.parquet").exists()

    code, said, err = benchmark(corpora=corpus)
    assert code == 0, err
    assert "4 done, 0 to go" in said
    assert "oracle" not in said
    assert rows_of(out, "meld") == watched

    code, said, err = benchmark("--oracle", corpora=corpus)
    assert code == 0, err
    assert "4 done, 0 to go" in said
    shutil.rmtree(out)
    assert benchmark(corpora=corpus)[0] == 0
    result = benchmark("--oracle", corpora=corpus)
    assert_refused(result, "4 run(s) failed", "not watched on these test data: delete the folder")
    assert rows_of(out, "meld")


@pytest.mark.slow
def test_runs_have_processes_of_their_own(benchmark: Command, corpora: list[Corpus], tmp_path: Path) -> None:
    """The same as above, as a user does it."""
    code, said, err = benchmark("--jobs", 1, corpora=corpora[0].path, models="text-only", seeds=1)
    assert code == 0, err
    assert "1 run(s) in 1 row(s): 0 done, 1 to go" in said
    (row,) = rows_of(tmp_path / "out", "meld")
    (found,) = evaluate(tmp_path / "out" / "meld" / "text-only", corpora[0])
    assert row["test"]["weighted_f1"] == {"mean": found.scores.weighted_f1, "sd": None}


@pytest.mark.usefixtures("here")
def test_a_row_that_fails_stops_no_other(benchmark: Command, corpora: list[Corpus], tmp_path: Path) -> None:
    broken = shutil.copytree(corpora[0].path, tmp_path / "broken")
    (broken / "features" / "audio.safetensors").unlink()
    result = benchmark(corpora=broken)
    code, said, err = result
    assert_refused(
        result, "2 run(s) failed", "meld/late-fusion/seed-0: ", "audio.safetensors is missing", "error.txt"
    )
    assert said.count("warning: meld/late-fusion") == 2
    assert [row["name"] for row in rows_of(tmp_path / "out", "meld")] == ["text-only"]
    assert (tmp_path / "out" / "meld" / "late-fusion" / "seed-0" / "error.txt").exists()
    shutil.copy(corpora[0].path / "features" / "audio.safetensors", broken / "features")
    code, said, err = benchmark(corpora=broken)
    assert code == 0, err
    assert not list((tmp_path / "out").rglob("error.txt"))
    assert len(rows_of(tmp_path / "out", "meld")) == 2


@pytest.mark.usefixtures("here")
def test_when_all_fails_there_are_no_tables(
    benchmark: Command, corpora: list[Corpus], tmp_path: Path
) -> None:
    result = benchmark(
        "--set", "training.learning_rate=1e30", "--set", "training.clip_norm=0", corpora=corpora[0].path
    )
    assert_refused(result, "4 run(s) failed", "try a lower training.learning_rate")
    assert "meld: no row has a complete seed yet" in result[1]
    assert not list((tmp_path / "out").rglob("benchmark.*"))


@pytest.mark.usefixtures("here")
def test_errors_are_shown_as_they_are(
    benchmark: Command, corpora: list[Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("must lie in [0, 1) [/red]\nmore lines")

    monkeypatch.setattr(tracking, "train", broken)
    result = benchmark(corpora=corpora[0].path, models="text-only", seeds=1)
    assert_refused(result, "meld/text-only/seed-0: ValueError: must lie in [0, 1) [/red]\n")
    assert "warning: meld/text-only/seed-0 failed: ValueError: must lie in [0, 1) [/red]" in result[1]
    assert "more lines" not in result[1]


@pytest.mark.usefixtures("here")
def test_presets_and_unused_settings(benchmark: Command, corpora: list[Corpus], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "medl": {"*": {}}}), encoding="utf-8")
    options = {"corpora": corpora[0].path, "seeds": 1, "settings": path}
    code, said, err = benchmark(
        "--set",
        "training.epochs=1",
        models="text-only,text-only:plain",
        reference="text-only:plain",
        **options,
    )
    assert code == 0, err
    assert "settings for medl are not used" in said
    assert {row["name"] for row in rows_of(tmp_path / "out", "meld")} == {"text-only", "text-only-plain"}
    assert [row.get("against") for row in rows_of(tmp_path / "out", "meld")].count("text-only-plain") == 1


@pytest.mark.usefixtures("here")
def test_an_interruption_says_how_to_go_on(
    benchmark: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "train", interrupted)
    code, _, err = benchmark()
    assert code == 130
    assert "the same command goes on where it stopped" in err
    assert "Traceback" not in err


# Mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": "df-ecr"}, ["no model 'df-ecr'", "did you mean 'df-erc'?"]),
        ({"models": "df-erc:papre"}, ["has no preset 'papre'"]),
        ({"models": " , "}, ["--models names nothing"]),
        ({"models": "df-erc,df-erc"}, ["df-erc is named twice"]),
        ({"corpora": "no/such/corpus"}, ["no/such/corpus is not a corpus folder"]),
        ({"corpora": ","}, ["--corpora names nothing"]),
        ({"settings": "missing.yaml"}, ["missing.yaml does not exist"]),
        ({"reference": "df-erc"}, ["--reference df-erc is none of the rows: late-fusion, text-only"]),
        ({"set": "training.epoch=3"}, ["late-fusion on meld: training: unknown key 'epoch'"]),
        ({"set": "modalities=[visual]"}, ["no modality 'visual'"]),
    ],
    ids=str,
)
def test_mistakes(benchmark: Command, tmp_path: Path, options: dict[str, str], said: list[str]) -> None:
    result = benchmark(**options)
    assert_refused(result, *said)
    assert result[2].count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_something_else(benchmark: Command, corpora: list[Corpus], tmp_path: Path) -> None:
    assert_refused(benchmark(out=corpora[0].path), "holds something else (corpus.json)")
    (tmp_path / "file").touch()
    assert_refused(benchmark(out=tmp_path / "file"), "file is a file: name a folder")


def test_one_corpus_twice(benchmark: Command, corpora: list[Corpus]) -> None:
    path = corpora[0].path
    assert_refused(benchmark(corpora=f"{path},{path}"), "two corpora are called 'meld'")
