import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

import helpers
from mmerc.corpus import Corpus
from mmerc.evaluation import evaluate
from tiny import SMALL, in_this_process, tables, write

Command = Callable[..., tuple[int, str, str]]
VALUES = {"training.epochs": 1, "training.batch_size": 4} | {
    f"network.{k}": v for k, v in SMALL["df-erc"].items()
}
SETTINGS = ["--device", "cpu", "--seeds", 1] + [p for k, v in VALUES.items() for p in ("--set", f"{k}={v}")]
ENDINGS = ("csv", "json", "md", "tex")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    frame, features = tables(seed=1)
    renamed = features["text"]._replace(recipe={"kind": "imported"})
    path = tmp_path_factory.mktemp("corpus") / "other"
    return write(path, frame, features | {"text": renamed}, name="other")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process: starting another takes seconds."""
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)


def test_tables_grow_without_training_anything_twice(
    mmerc: Command, here: None, corpus: Corpus, tmp_path: Path
) -> None:
    call = ("ablate", "--corpora", corpus.path, "--out", tmp_path, *SETTINGS)
    code, out, err = mmerc(*call, "--tables", "missing", "--jobs", 2)
    assert code == 0, err
    assert "2 run(s) in 2 row(s): 0 done, 2 to go" in err
    assert "modalities hidden at test" in out
    assert (tmp_path / "tiny" / "df-erc-modality-dropout-0.3" / "seed-0" / "checkpoint.json").exists()
    (found,) = evaluate(tmp_path / "tiny" / "full", corpus, hide=["text"])
    rows = json.loads((tmp_path / "tiny" / "missing.json").read_text(encoding="utf-8"))["rows"]
    (row,) = [r for r in rows if r["hidden"] == ["text"] and not r["modality_dropout"]]
    assert row["test"]["weighted_f1"]["mean"] == pytest.approx(found.scores.weighted_f1)
    assert f"{100 * found.scores.weighted_f1:.2f}" in out
    code, _, err = mmerc(*call, "--tables", "missing")
    assert code == 0
    assert "2 run(s) in 2 row(s): 2 done, 0 to go" in err


@pytest.mark.slow
def test_all_tables_are_written(mmerc: Command, here: None, corpus: Corpus, tmp_path: Path) -> None:
    names = ("components", "modalities", "missing", "causal")
    models = {model: {"network": helpers.SMALL[model]} for model in ("df-erc", "tfn")}
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"tiny": models}), encoding="utf-8")
    code, _, err = mmerc(
        "ablate", "--corpora", corpus.path, "--out", tmp_path, "--tables", ",".join(names),
        "--preset", "paper-meld", "--models", "df-erc,tfn:paper", "--settings", settings, "--seeds", 1,
        "--set", "training.epochs=1",
    )  # fmt: skip
    assert code == 0, err
    assert "left out: causal: tfn:paper never looks ahead" in err
    for name in names:
        assert {p.name for p in (tmp_path / "tiny").glob(f"{name}.*")} == {f"{name}.{e}" for e in ENDINGS}
    read = pd.read_csv(tmp_path / "tiny" / "components.csv")
    assert read["name"].tolist()[:2] == ["full", "without-ddm"]
    assert read["preset"].unique().tolist() == ["paper-meld"]
    missing = pd.read_csv(tmp_path / "tiny" / "missing.csv")
    assert missing.groupby("model").size().to_dict() == {"df-erc": 6, "tfn": 6}


def test_a_causal_table_that_cannot_be(mmerc: Command, tmp_path: Path) -> None:
    frame, features = tables()
    ahead = features["text"]._replace(recipe={"kind": "text-encoder", "encoder": "minilm", "scope": "both"})
    corpus = write(tmp_path / "c", frame, features | {"text": ahead})
    call = ("ablate", "--corpora", corpus.path, "--out", tmp_path / "runs", *SETTINGS)
    code, _, err = mmerc(*call, "--tables", "components,causal")
    assert code == 2
    assert "mmerc corpus encode-text" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_failures_are_told_at_the_end(mmerc: Command, here: None, corpus: Corpus, tmp_path: Path) -> None:
    broken = tmp_path / "tiny" / "full" / "seed-0" / "state.pt"
    broken.parent.mkdir(parents=True)
    broken.touch()
    call = ("ablate", "--corpora", corpus.path, "--out", tmp_path, *SETTINGS, "--tables", "modalities")
    code, out, err = mmerc(*call)
    assert code == 2
    assert "1 run(s) failed" in err
    assert "tiny/full/seed-0" in err
    assert "audio+text is not finished" in out
    broken.unlink()
    assert mmerc(*call)[0] == 0


def test_transfer(mmerc: Command, here: None, corpus: Corpus, other: Corpus, tmp_path: Path) -> None:
    both = ("--corpora", f"{corpus.path},{other.path}", "--out", tmp_path, *SETTINGS)
    code, _, err = mmerc("transfer", *both, "--preset", "paper-meld")
    assert code == 0, err
    assert "df-erc reads audio, text" in err
    assert "warning: text: the recipes differ" in err
    assert {p.name for p in tmp_path.glob("transfer.*")} == {f"transfer.{ending}" for ending in ENDINGS}
    report = json.loads((tmp_path / "transfer.json").read_text(encoding="utf-8"))
    assert report["modalities"] == ["audio", "text"]
    assert len(report["rows"]) == 4
    (own,) = evaluate(tmp_path / "other" / "df-erc", other)
    assert report["rows"][3]["weighted_f1"]["mean"] == pytest.approx(own.scores.weighted_f1)
    code, _, err = mmerc("transfer", *both, "--modalities", "visual")
    assert code == 2
    assert "visual: not in tiny, other" in err
    code, _, err = mmerc("transfer", "--corpora", corpus.path, "--out", tmp_path)
    assert code == 2
    assert "two at least" in err
