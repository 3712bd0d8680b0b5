import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mmerc.analysis import calibration, disentanglement, reliability, speakers
from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.findings import Finding, Skipped
from mmerc.analysis.frozen_run import FrozenRun, read_run
from mmerc.checkpoint import load_checkpoint, save_checkpoint
from mmerc.corpus import Corpus
from mmerc.examples import Examples
from mmerc.experiments.runs import plan, train_in_turn
from mmerc.metrics import calibration_error
from mmerc.models.df_erc import DFERC
from mmerc.training import Listener, train
from tiny import config, tables, task, write


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Of the test utterances some lack a label, all have a text, some an audio."""
    frame, features = tables(30)
    frame.loc[frame.index[::9], "label"] = None
    return write(tmp_path_factory.mktemp("corpus") / "tiny", frame, features)


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> FrozenRun:
    """Two seeds of DF-ERC."""
    out = tmp_path_factory.mktemp("run")
    settings = config("df-erc", epochs=2)
    for seed in range(2):
        train(task(corpus, settings, seed), out / f"seed-{seed}")
    return read_run(out, corpus, device="cpu")


@pytest.fixture(scope="module")
def folds(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> FrozenRun:
    out = tmp_path_factory.mktemp("folds")
    runs = plan(corpus, out, [3], cross_validate=True)
    for _ in train_in_turn(corpus, config("df-erc", epochs=1), runs, False, "cpu", lambda _: Listener()):
        pass
    return read_run(out, corpus, device="cpu")


def forward(path: Path, corpus: Corpus) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Rows and what the network computes for them, a dialogue at a time, seen by hooks."""
    pipeline = load_checkpoint(path).pipeline
    network = pipeline.network
    assert isinstance(network, DFERC)
    seen: dict[str, torch.Tensor] = {}
    network.ddm.modality.register_forward_hook(lambda _, i, o: seen.update(input=i[0], modality=o))
    network.ddm.utterance.register_forward_hook(lambda _, i, o: seen.update(utterance=o))
    network.cfm.register_forward_hook(
        lambda m, i, o: seen.update(teacher=m.teacher(i[0]).softmax(-1), omega=o[1])
    )
    examples = Examples.from_corpus(corpus, network.modalities)
    for dialogue in corpus.split("test"):
        with torch.inference_mode():
            output = pipeline(examples.batch(np.array([dialogue])))
        for position, row in enumerate(corpus.rows(np.array([dialogue]))):
            values = {name: x[:, position] for name, x in seen.items()}
            values["weight"] = output.context_weight[position]
            values["p"] = output.logits[position].softmax(-1)
            yield int(row), values


def test_every_utterance_of_every_seed(corpus: Corpus, run: FrozenRun) -> None:
    table = run.utterances.set_index(["seed", "row"])
    present = {m: corpus.features(m)[1] for m in ("audio", "text")}
    expected = 0
    for member in run.members:
        for row, values in forward(member.path, corpus):
            target = int(corpus.targets[row])
            if target < 0:
                assert (member.seed, row) not in table.index
                continue
            expected += 1
            found = table.loc[(member.seed, row)]
            assert found["truth"] == target
            assert found["predicted"] == int(values["p"].argmax())
            assert found["correct"] == (found["predicted"] == found["truth"])
            assert found["cross_entropy"] == pytest.approx(-math.log(values["p"][target]), abs=1e-5)
            assert corpus.offsets[found["dialogue"]] <= row < corpus.offsets[found["dialogue"] + 1]
            assert found["speaker"] == corpus.utterances["speaker"].iloc[row]
            if all(flags[row] for flags in present.values()):
                assert found["psi"] == pytest.approx(1 - float(values["weight"]), abs=1e-5)
            else:
                assert np.isnan(found["psi"])
            for k, name in enumerate(("audio", "text")):
                omega = float(values["omega"][k]) if present[name][row] else np.nan
                assert found[f"omega:{name}"] == pytest.approx(omega, abs=1e-5, nan_ok=True)
    assert len(table) == expected
    assert table["psi"].isna().any()


def test_hidden_quantities_are_those_of_the_forward_pass(corpus: Corpus, run: FrozenRun) -> None:
    assert [member.seed for member, _ in run.hidden] == [0, 1]
    for member, inside in run.hidden:
        assert inside.teacher is not None
        position = {row: k for k, row in enumerate(member.rows.tolist())}
        for row, values in forward(member.path, corpus):
            for name in ("input", "modality", "utterance"):
                np.testing.assert_allclose(inside.vectors[name][:, position[row]], values[name], atol=1e-5)
            np.testing.assert_allclose(inside.teacher[:, position[row]], values["teacher"], atol=1e-5)


def test_folds_are_predicted_by_their_own_checkpoints(corpus: Corpus, folds: FrozenRun) -> None:
    assert folds.seeds == [3]
    assert folds.test_name == "the pooled test folds"
    assert folds.utterances["row"].tolist() == np.flatnonzero(corpus.targets >= 0).tolist()
    for member, inside in folds.hidden:
        assert set(corpus.utterances["fold"].iloc[member.rows]) == {member.fold}
        assert inside.vectors["input"].shape[1] == len(member.rows)
    parts = [{p: set(m.dialogues(corpus, p)) for p in ("train", "validation", "test")} for m in folds.members]
    for part in parts:
        assert not part["train"] & part["validation"]
        assert not part["test"] & (part["train"] | part["validation"])
    assert all(a["test"] != b["test"] for a, b in pairwise(parts))


def test_error_of_contributions(corpus: Corpus, run: FrozenRun) -> None:
    table = reliability.contribution_errors(run).set_index(["seed", "row", "modality"])["error"]
    count = 0
    for member in run.members:
        for row, values in forward(member.path, corpus):
            target, errors = int(corpus.targets[row]), []
            for k, name in enumerate(member.modalities):
                if target >= 0 and corpus.features(name)[1][row]:
                    errors.append(float(values["omega"][k] - values["teacher"][k, target]) ** 2)
                    assert table[member.seed, row, name] == pytest.approx(errors[-1], abs=1e-5)
            if errors:
                assert table[member.seed, row, reliability.MEAN] == pytest.approx(np.mean(errors), abs=1e-5)
                count += len(errors) + 1
    assert len(table) == count


def test_bins_of_errors() -> None:
    generator = np.random.default_rng(0)
    error, correct = generator.random(200) ** 2, generator.random(200) < 0.6
    table = pd.DataFrame({"seed": 0, "modality": "audio", "error": error, "correct": correct})
    bins = reliability.bin_errors(table)
    assert len(bins) == reliability.LAST + 1
    assert bins["share"].sum() == pytest.approx(1)
    for _, found in bins.iterrows():
        inside = [c for e, c in zip(error, correct, strict=True) if found["from"] <= e < found["to"]]
        assert found["utterances"] == len(inside)
        assert found["accuracy"] == pytest.approx(np.mean(inside) if inside else np.nan, nan_ok=True)


def test_separation_against_loops(run: FrozenRun) -> None:
    member, inside = run.hidden[0]
    found = {row["vectors"]: row for row in disentanglement.separation(member, inside)}
    assert list(found) == ["input", "modality", "utterance"]
    for name, row in found.items():
        items = [
            (m, u, inside.vectors[name][m, u])
            for m in range(2)
            for u in range(len(member.rows))
            if member.present[u, m]
        ]

        def distance(a: np.ndarray, b: np.ndarray) -> float:
            return 1 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

        widths, modality, utterance = [], [], []
        for i, (m, u, x) in enumerate(items):
            others = [(distance(x, y), n, v) for j, (n, v, y) in enumerate(items) if j != i]
            own = np.mean([d for d, n, _ in others if n == m])
            other = np.mean([d for d, n, _ in others if n != m])
            widths.append((other - own) / max(own, other))
            _, n, v = min(others)
            modality.append(n == m)
            if member.present[u].all():
                utterance.append(v == u)
        assert row["silhouette"] == pytest.approx(np.mean(widths), abs=1e-4)
        assert row["same_modality"] == pytest.approx(np.mean(modality))
        assert row["same_utterance"] == pytest.approx(np.mean(utterance))


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    generator = np.random.default_rng(0)
    confidence, correct = generator.random(300), generator.random(300) < 0.5
    bins = calibration.reliability_bins(confidence, correct)
    gaps = bins["share"] * (bins["accuracy"] - bins["confidence"]).abs()
    assert gaps.sum() == pytest.approx(calibration_error(confidence, correct))


def test_each_fold_has_a_temperature_from_its_own_validation(corpus: Corpus, folds: FrozenRun) -> None:
    temperatures, notes = calibration.fit_temperatures(folds)
    assert temperatures is not None
    assert not notes
    assert len(set(temperatures.values())) == 3
    _, scores = calibration.measure(folds, temperatures)
    before, after = scores.iloc[0], scores.iloc[1]
    evaluation = folds.evaluations[0]
    assert before["error"] == pytest.approx(evaluation.scores.expected_calibration_error, abs=1e-6)
    total = 0.0
    for member in folds.members:
        probabilities = evaluation.probabilities[np.isin(evaluation.rows, member.rows)]
        scaled = probabilities ** (1 / temperatures[member.path])
        scaled /= scaled.sum(axis=1, keepdims=True)
        for p, row in zip(scaled, member.rows, strict=True):
            if corpus.targets[row] >= 0:
                total -= math.log(p[corpus.targets[row]])
    assert after["likelihood"] == pytest.approx(total / len(folds.utterances), abs=1e-5)


def test_overconfidence_of_a_checkpoint_is_undone(corpus: Corpus, run: FrozenRun, tmp_path: Path) -> None:
    path = run.members[0].path
    checkpoint = load_checkpoint(path)
    state = dict(checkpoint.pipeline.state_dict())
    for name in ("network.classifier.1.weight", "network.classifier.1.bias"):
        state[name] = 6.0 * state[name]
    save_checkpoint(tmp_path / "loud", state, checkpoint.run, checkpoint.info, None)
    plain, _ = calibration.fit_temperatures(run)
    loud, _ = calibration.fit_temperatures(read_run(tmp_path / "loud", corpus, device="cpu"))
    assert plain is not None
    assert loud is not None
    assert loud[tmp_path / "loud"] == pytest.approx(6 * plain[path], rel=0.02)


def test_validation_that_is_missing(corpus: Corpus, run: FrozenRun, tmp_path: Path) -> None:
    frame, features = tables(30)
    for change, said in (
        ({"split": frame["split"].replace("validation", "train")}, "no split 'validation'"),
        (
            {"label": frame["label"].where(frame["split"] != "validation")},
            "no validation utterance has a label",
        ),
    ):
        other = write(tmp_path / said[:5], frame.assign(**change), features)
        found = calibration.calibration(Comparisons(read_run(run.members[0].path, other, device="cpu"), None))
        assert said in found.notes[0]
        assert set(found.data["stage"]) == {calibration.BEFORE}


def test_speakers_met_and_new(tmp_path: Path, run: FrozenRun) -> None:
    frame, features = tables(30)
    test = frame["split"] == "test"
    frame.loc[test, "speaker"] = [("Ann", "Eve", None)[k % 3] for k in range(int(test.sum()))]
    corpus = write(tmp_path / "c", frame, features)
    again = read_run(run.members[0].path, corpus, device="cpu")
    kinds = speakers.familiar(again)
    assert set(zip(kinds["speaker"], kinds["kind"], strict=True)) == {
        ("Ann", speakers.MET),
        ("Eve", speakers.NEW),
    }
    found = speakers.speakers(Comparisons(again, None))
    assert isinstance(found, Finding)
    assert found.notes == (f"Left out: {sum(test) // 3} utterances that do not say who speaks.",)


def test_speakers_of_another_corpus_are_unknown(tmp_path: Path, run: FrozenRun) -> None:
    other = write(tmp_path / "c", *tables(30), name="other")
    found = speakers.speakers(Comparisons(read_run(run.members[0].path, other, device="cpu"), None))
    assert isinstance(found, Skipped)
    assert found.reason == "the model was trained on another corpus (tiny): its speakers are unknown"


def test_speakers_who_are_named_by_their_role(tmp_path: Path, run: FrozenRun) -> None:
    frame, features = tables(30)
    for speaker, said in (("user", "all speakers of the corpus have one name (user)"), (None, "who speaks")):
        other = write(tmp_path / str(speaker), frame.assign(speaker=speaker), features)
        found = speakers.speakers(Comparisons(read_run(run.members[0].path, other, device="cpu"), None))
        assert isinstance(found, Skipped)
        assert said in found.reason
