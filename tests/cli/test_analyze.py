import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mmerc.analysis.report import ANALYSES, SUFFIXES
from mmerc.corpus import Corpus
from mmerc.experiments.runs import plan, train_in_turn
from mmerc.training import Listener, train
from tiny import config, tables, task, write

Command = Callable[..., tuple[int, str, str]]
VARIANTS = {
    "full": {},
    "without-utterance": {"utterance_branch": False},
    "without-modality": {"modality_branch": False},
    "full-context": {"refusion": "full"},
    "zero-context": {"refusion": "zero"},
}
STEMS = [
    "figure-06-agreement",
    "figure-07-contributions",
    "figure-08-context",
    "figure-10-disentanglement",
    "figure-11-reliability",
    "calibration",
    "emotion-shift",
    "speakers",
    "confusion",
]
FOR_ALL = ["calibration", "emotion-shift", "speakers", "confusion"]


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pixels: no test looks at them."""
    monkeypatch.setattr("mmerc.analysis.drawing.DPI", 40)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(tmp_path_factory.mktemp("corpus") / "tiny", *tables(30))


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of DF-ERC and of its ablations, as `mmerc ablate` lays them out."""
    out = tmp_path_factory.mktemp("ablation")
    for name, network in VARIANTS.items():
        settings = config("df-erc", epochs=1)
        settings.network.update(network)
        for seed in range(2):
            train(task(corpus, settings, seed), out / name / f"seed-{seed}")
    return out


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def expected(stems: list[str]) -> set[str]:
    return {f"{s}.{suffix}" for s in stems for suffix in SUFFIXES} | {"README.md", "analysis.json"}


@pytest.mark.slow
def test_all_figures_with_comparisons(mmerc: Command, corpus: Corpus, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (runs / "full", "--corpus", corpus.path, "--compare", runs, "--device", "cpu")
    code, said, err = mmerc("analyze", *arguments, "--out", out)
    assert code == 0, err
    assert files(out) == expected(STEMS)
    assert len(ANALYSES) == len(STEMS)
    assert "skipped" not in said
    assert "Drawn without" not in said
    report = json.loads((out / "analysis.json").read_text(encoding="utf-8"))
    assert report["seeds"] == [0, 1]
    page = (out / "README.md").read_text(encoding="utf-8")
    for stem, found in report["figures"].items():
        assert found["here"] in said
        assert f"({stem}.png)" in page
        assert found["here"] in page
        assert found["numbers"]
        svg = (out / f"{stem}.svg").read_text(encoding="utf-8")
        assert "<text" in svg  # text stays text
    models = pd.read_csv(out / "figure-08-context.csv")["model"]
    assert list(dict.fromkeys(models)) == ["CRM", "full context", "zero context"]


@pytest.mark.slow
def test_figures_drawn_again_are_the_same_files(
    mmerc: Command, corpus: Corpus, runs: Path, tmp_path: Path
) -> None:
    arguments = (runs / "full", "--corpus", corpus.path, "--compare", runs, "--device", "cpu")
    for out in ("first", "again"):
        assert mmerc("analyze", *arguments, "--out", tmp_path / out)[0] == 0
    for name in files(tmp_path / "first"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name


@pytest.mark.slow
def test_without_comparisons(mmerc: Command, corpus: Corpus, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, err = mmerc("analyze", runs / "full" / "seed-1", "--corpus", corpus.path, "--out", out)
    assert code == 0, err
    assert files(out) == expected(STEMS)
    for name in ("without u-DDM", "without m-DDM", "full context", "zero context"):
        assert f"Drawn without “{name}”: no --compare folder with" in said
    assert "±" not in (out / "README.md").read_text(encoding="utf-8")  # of one seed there is no spread


@pytest.mark.slow
def test_comparisons_in_part(mmerc: Command, corpus: Corpus, runs: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    shutil.copytree(runs / "full-context" / "seed-1", some / "full-context")
    code, said, err = mmerc(
        "analyze", runs / "full", "--corpus", corpus.path, "--out", tmp_path / "o", "--compare", some
    )
    assert code == 0, err
    assert f"Drawn without “zero context”: {some} has no finished run zero-context." in said
    assert "“full context”" not in said
    assert "Only the seeds that all runs have are compared: 1." in said


@pytest.mark.slow
def test_folds(mmerc: Command, corpus: Corpus, tmp_path: Path) -> None:
    for name in ("full", "without-utterance"):
        settings = config("df-erc", epochs=1)
        settings.network.update(VARIANTS[name])
        planned = plan(corpus, tmp_path / name, [0, 1], cross_validate=True)
        for _ in train_in_turn(corpus, settings, planned, False, "cpu", lambda _: Listener()):
            pass
    code, said, err = mmerc(
        "analyze", tmp_path / "full", "--corpus", corpus.path, "--out", tmp_path / "o", "--compare", tmp_path
    )
    assert code == 0, err
    assert files(tmp_path / "o") == expected(STEMS)
    assert "seed 0, fold 0; the numbers are those of all checkpoints" in said
    data = pd.read_csv(tmp_path / "o" / "figure-06-agreement.csv")
    assert set(data["model"]) == {"with u-DDM", "without u-DDM"}
    assert "the pooled test folds" in (tmp_path / "o" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["late-fusion", "text-only"])
def test_another_model(mmerc: Command, corpus: Corpus, tmp_path: Path, model: str) -> None:
    train(task(corpus, config(model, epochs=1)), tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / "figure-10-disentanglement.png").write_bytes(b"of an earlier analysis")
    code, said, err = mmerc("analyze", tmp_path / "run", "--corpus", corpus.path, "--out", out)
    assert code == 0, err
    assert files(out) == expected(FOR_ALL)
    assert "skipped: the model is not a DF-ERC and has no DDM" in said
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "Skipped: the model has no agreement ψ between modalities." in page


def test_parts_that_are_switched_off(mmerc: Command, corpus: Corpus, tmp_path: Path) -> None:
    settings = config("df-erc", epochs=1)
    settings.network.update(modality_branch=False, utterance_branch=False, fusion="uniform", refusion="zero")
    train(task(corpus, settings), tmp_path / "run")
    code, said, err = mmerc("analyze", tmp_path / "run", "--corpus", corpus.path, "--out", tmp_path / "o")
    assert code == 0, err
    assert files(tmp_path / "o") == expected(FOR_ALL)
    for reason in ("has no agreement ψ", "no modality-level", "both branches", "there is no teacher"):
        assert f"{reason}" in said


@pytest.mark.slow
def test_a_run_that_is_an_ablation_itself(mmerc: Command, corpus: Corpus, runs: Path, tmp_path: Path) -> None:
    settings = config("df-erc", epochs=1)
    settings.network.update(utterance_branch=False, fusion="uniform")
    train(task(corpus, settings), tmp_path / "run")
    code, said, err = mmerc(
        "analyze", tmp_path / "run", "--corpus", corpus.path, "--out", tmp_path / "o", "--compare", runs
    )
    assert code == 0, err
    assert "skipped: the run has no utterance-level disentanglement" in said
    assert "skipped: the model does not weigh the modalities of an utterance" in said
    assert "Drawn without mᵘ, utterance level: switched off." in said


def test_mistakes(mmerc: Command, corpus: Corpus, runs: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ((runs / "full", "--compare", tmp_path / "none", "--out", tmp_path / "o"), "none is not a folder"),
        ((tmp_path, "--out", tmp_path / "o"), "holds no finished checkpoint"),
        ((runs / "full", "--out", runs / "full" / "seed-0"), "choose a folder of its own"),
    ):
        code, _, err = mmerc("analyze", *arguments, "--corpus", corpus.path)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1
