"""An exported graph says what the model says, whatever the shape of the batch, and needs no PyTorch."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import helpers
import mmerc
import mmerc.export as export_module
from helpers import CLASSES, SMALL, WIDTHS, make_batch, modalities_of
from mmerc.batch import Batch
from mmerc.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint, versions
from mmerc.cli.main import app
from mmerc.conversation import Conversation, Utterance
from mmerc.corpus import Corpus, Modality
from mmerc.errors import CheckpointError, ConfigError
from mmerc.export import STEPWISE, TOLERANCE, export_onnx, export_text_encoder
from mmerc.features.frozen import encode
from mmerc.features.text import TextEncoder
from mmerc.models import MODELS, resolve
from mmerc.pipeline import Pipeline, build_pipeline
from mmerc.training import train
from tiny import config, make_bert, tables, task, write

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "onnx_predict.py"
LABELS = ("joy", "schön", "anger")
FIRST = [(model, next(iter(MODELS[model].presets)), {}) for model in ("df-erc", "mm-dfn")]
OTHERS = [
    (model, preset, overrides)
    for model in MODELS
    for preset in MODELS[model].presets
    for overrides in ({}, {"causal": True})
    if model not in STEPWISE and (model, preset, overrides) not in FIRST
]
BATCHES = ([1], [6], [1, 1, 1], [1, 9, 3, 2, 5], [12, 4])


def checkpoint(
    path: Path, model: str, preset: str, overrides: dict[str, Any], standardize: bool = True
) -> Path:
    """Write a checkpoint of a small untrained network whose standardisation is not the identity."""
    names = modalities_of(model)
    run = resolve(model, {"preset": preset}, {"network": SMALL[model]}, {"network": overrides})
    run = replace(run, training=replace(run.training, standardize=standardize))
    torch.manual_seed(1)
    pipeline = build_pipeline(run, {m: WIDTHS[m] for m in names}, CLASSES)
    if pipeline.standardizer is not None:
        for buffer in pipeline.standardizer.buffers():
            buffer += torch.rand_like(buffer)
        pipeline.standardizer.get_buffer(f"scale_{names[0]}")[1] = 0.0  # a feature that never varied
    info = CheckpointInfo(
        labels=LABELS, modalities={m: Modality(width=WIDTHS[m], recipe={"kind": "made-up"}) for m in names},
        corpus="tiny", seed=0, fold=None, epoch=1, validation={}, class_weights=None, versions=versions(),
        git_commit=None,
    )  # fmt: skip
    save_checkpoint(path, pipeline.state_dict(), run, info, None)
    return path


@pytest.fixture(scope="module")
def dferc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of DF-ERC, and its export."""
    folder = tmp_path_factory.mktemp("df-erc")
    export_onnx(checkpoint(folder / "run", *FIRST[0]), folder / "model.onnx")
    return folder / "run", folder / "model.onnx"


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def said(path: Path) -> dict[str, str]:
    """The metadata."""
    return dict(session(path).get_modelmeta().custom_metadata_map)


def feed(batch: Batch) -> dict[str, npt.NDArray[Any]]:
    named = {f"features_{m}": x for m, x in batch.features.items()}
    rest = {"present": batch.present, "lengths": batch.lengths, "speakers": batch.speakers}
    return {name: x.numpy() for name, x in (named | rest).items()}


def assert_parity(found: onnxruntime.InferenceSession, pipeline: Pipeline, batches: list[Batch]) -> None:
    """Compare all outputs of a graph with those of the checkpoint's own pipeline."""
    names = [value.name for value in found.get_outputs()]
    for batch in batches:
        batch = batch._replace(labels=None)
        with torch.no_grad():
            output = pipeline(batch)
        wanted = {"probabilities": output.logits.softmax(dim=-1), **output._asdict()}
        assert ("contributions" in names) == (output.contributions is not None)
        assert ("context_weight" in names) == (output.context_weight is not None)
        for name, values in zip(names, found.run(names, feed(batch)), strict=True):
            np.testing.assert_allclose(values, wanted[name].numpy(), rtol=0, atol=TOLERANCE)


def shapes(model: str) -> list[Batch]:
    names = modalities_of(model)
    drawn = [make_batch(x, names, seed=i, missing=m) for i, x in enumerate(BATCHES) for m in (0.0, 0.5)]
    return [*drawn, make_batch([2, 1], names, missing=1.0)]


# Parity


@pytest.mark.parametrize(("model", "preset", "overrides"), FIRST)
def test_parity(tmp_path: Path, model: str, preset: str, overrides: dict[str, Any]) -> None:
    run = checkpoint(tmp_path / "run", model, preset, overrides)
    written = export_onnx(run, tmp_path / "model.onnx")
    assert written.difference <= TOLERANCE
    assert written.size == (tmp_path / "model.onnx").stat().st_size
    assert_parity(session(written.path), load_checkpoint(run).pipeline, shapes(model))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "preset", "overrides"), OTHERS)
def test_parity_of_all_presets(tmp_path: Path, model: str, preset: str, overrides: dict[str, Any]) -> None:
    try:
        run = checkpoint(tmp_path / "run", model, preset, overrides)
    except ConfigError as error:
        pytest.skip(str(error))  # this one has no causal mode
    export_onnx(run, tmp_path / "model.onnx")
    assert_parity(session(tmp_path / "model.onnx"), load_checkpoint(run).pipeline, shapes(model))


@pytest.fixture(scope="module")
def loaded(dferc: tuple[Path, Path]) -> tuple[onnxruntime.InferenceSession, Pipeline]:
    return session(dferc[1]), load_checkpoint(dferc[0]).pipeline


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 999))
def test_parity_on_any_dialogues(
    loaded: tuple[onnxruntime.InferenceSession, Pipeline], lengths: list[int], seed: int
) -> None:
    assert_parity(*loaded, [make_batch(lengths, seed=seed, missing=0.3)])


def test_without_standardisation_and_with_one_modality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "WIDTHS", {"audio": 5})
    monkeypatch.setattr(sys.modules[__name__], "WIDTHS", {"audio": 5})
    monkeypatch.setattr(sys.modules[__name__], "modalities_of", lambda model: ("audio",))
    run = checkpoint(tmp_path / "run", *FIRST[0], standardize=False)
    export_onnx(run, tmp_path / "model.onnx")
    assert_parity(
        session(tmp_path / "model.onnx"),
        load_checkpoint(run).pipeline,
        [make_batch([3, 1], ("audio",), missing=0.3)],
    )


def test_what_is_absent_is_not_looked_at(dferc: tuple[Path, Path]) -> None:
    batch = make_batch([4, 1, 2], missing=0.5)
    clean, found = feed(batch), session(dferc[1])
    dirty = {
        **clean,
        **{
            f"features_{m}": np.where(clean["present"][:, [k]], clean[f"features_{m}"], np.float32(np.nan))
            for k, m in enumerate(batch.features)
        },
    }
    for one, other in zip(found.run(None, clean), found.run(None, dirty), strict=True):
        np.testing.assert_array_equal(one, other)


# What the file says


def test_metadata(dferc: tuple[Path, Path]) -> None:
    metadata = said(dferc[1])
    assert json.loads(metadata["labels"]) == list(LABELS)
    assert "schön" in metadata["labels"]
    assert json.loads(metadata["modalities"])["text"] == {"width": 6, "recipe": {"kind": "made-up"}}
    assert (metadata["model"], metadata["preset"], metadata["kind"]) == ("df-erc", "refined", "network")
    assert metadata["mmerc_version"] == versions()["mmerc"]
    assert (metadata["mmerc_format"], metadata["looks_ahead"], metadata["corpus"]) == ("1", "true", "tiny")


@pytest.mark.parametrize("preset", ["refined", "paper-meld"])
def test_every_model_is_called_alike(tmp_path: Path, preset: str) -> None:
    """Whether it reads the speakers or not."""
    path = export_onnx(checkpoint(tmp_path / "run", "df-erc", preset, {}), tmp_path / "model.onnx").path
    names = [*(f"features_{m}" for m in WIDTHS), "present", "lengths", "speakers"]
    found = session(path)
    assert [value.name for value in found.get_inputs()] == names
    assert found.get_inputs()[names.index("speakers")].type == "tensor(int64)"
    assert list(json.loads(said(path)["inputs"])) == names
    assert list(json.loads(said(path)["outputs"])) == [value.name for value in found.get_outputs()]
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_exporting_twice_gives_the_same_bytes(dferc: tuple[Path, Path], tmp_path: Path) -> None:
    export_onnx(dferc[0], tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == dferc[1].read_bytes()


# What cannot be exported


@pytest.mark.parametrize("model", STEPWISE)
def test_loops_over_time_are_refused(tmp_path: Path, model: str) -> None:
    run = checkpoint(tmp_path / "run", model, "refined", {})
    with pytest.raises(ConfigError, match=f"{model} cannot be exported: it walks over the utterances"):
        export_onnx(run, tmp_path / "model.onnx")


def test_a_graph_that_differs_is_refused(
    dferc: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "TOLERANCE", 0.0)
    with pytest.raises(ConfigError, match=r"the graph's outputs differ by .* from the model's, more than 0"):
        export_onnx(dferc[0], tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_one_shape_is_refused(
    dferc: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmerc.layers.padding.cast", lambda kind, x: int(x))
    with pytest.raises(ConfigError, match="this model cannot be exported: its graph fails on another batch"):
        export_onnx(dferc[0], tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint_no_packages_no_encoder(
    dferc: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
        export_onnx(tmp_path / "missing", tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="has no text encoder"):
        export_text_encoder(dferc[0], tmp_path / "encoder.onnx")
    monkeypatch.setattr(export_module, "LARGEST", 100)
    with pytest.raises(ConfigError, match=r"its weights take 0\.0 GB"):
        export_onnx(dferc[0], tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match="an export needs the package onnx"):
        export_onnx(dferc[0], tmp_path / "model.onnx")


# Without PyTorch


def run_example(*arguments: str | Path) -> list[list[str]]:
    """What examples/onnx_predict.py prints, by cell, where neither PyTorch nor mmerc can be imported."""
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'mmerc', 'transformers', 'onnx'): sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(EXAMPLE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    return [line.split("\t") for line in done.stdout.splitlines()]


def assert_rows(rows: list[list[str]], predictions: list[mmerc.Prediction]) -> None:
    """Compare what the example printed with what mmerc predicts."""
    emotions = [emotion for prediction in predictions for emotion in prediction.emotions]
    assert [row[2] for row in rows] == [emotion.label for emotion in emotions]
    assert [float(row[3]) for row in rows] == pytest.approx([e.confidence for e in emotions], abs=1e-4)


def test_the_example_predicts_from_features(dferc: tuple[Path, Path], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    lengths, names = (3, 4), ("Zoë", "Ben", "Zoë", "Ann", "Ben", "Ann", "Cem")
    arrays = {m: generator.normal(size=(7, WIDTHS[m])).astype(np.float32) for m in ("audio", "text")}
    arrays["audio"][[1, 6]] = np.nan
    np.savez(tmp_path / "talk.npz", **arrays, speakers=np.array(names), lengths=np.array(lengths))
    turns = [
        Utterance(speaker=name, features={m: x[i] for m, x in arrays.items() if np.isfinite(x[i]).all()})
        for i, name in enumerate(names)
    ]
    talks = [Conversation(tuple(turns[:3])), Conversation(tuple(turns[3:]))]
    rows = run_example(dferc[1], "--features", tmp_path / "talk.npz")
    assert [row[1] for row in rows] == list(names)
    assert_rows(rows, mmerc.load(dferc[0]).predict_many(talks))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that reads texts with a frozen encoder, in their dialogue and alone."""
    folder = tmp_path_factory.mktemp("reader")
    frame, features = tables()
    bare = write(folder / "c", frame, {"audio": features["audio"]})
    bert = str(make_bert(folder / "bert"))
    encoder = TextEncoder.load(bert, layers=(1, 2), scope="both", window=12, utterance_limit=7)
    corpus = bare.add_modality("text", encode(encoder, bare.texts))
    train(task(corpus, config("df-erc", epochs=1)), folder / "run")
    return folder / "run"


CHAT = """Ann: great, the train is here!
Ben: oh no, the train is late, late, late again
Ann: [SEP] is it not fine, the train, fine
Ben: !
Cem: late
"""


@pytest.mark.slow
def test_text_in_emotions_out(reader: Path, tmp_path: Path) -> None:
    out = [tmp_path / "model.onnx", tmp_path / "encoder.onnx"]
    done = CliRunner().invoke(
        app, ["export", "onnx", str(reader), "--out", str(out[0]), "--text-encoder", str(out[1])]
    )
    assert done.exit_code == 0, done.output
    assert done.output.count("differs from the model by") == 2
    chat = tmp_path / "chat.txt"
    chat.write_text(CHAT, encoding="utf-8")
    rows = run_example(out[0], "--encoder", out[1], "--chat", chat)
    assert len(rows) == 5
    assert_rows(rows, [mmerc.load(reader).predict(chat)])


@pytest.mark.slow
def test_an_encoder_trained_along(tmp_path: Path) -> None:
    frame, features = tables()
    corpus: Corpus = write(tmp_path / "c", frame, {"audio": features["audio"]})
    run = config("df-erc", text_encoder={"name": str(make_bert(tmp_path / "bert"))}, epochs=1)
    train(task(corpus, run), tmp_path / "run")
    model = export_onnx(tmp_path / "run", tmp_path / "model.onnx")
    encoder = export_text_encoder(tmp_path / "run", tmp_path / "encoder.onnx")
    assert json.loads(said(encoder.path)["packing"])["scopes"] == ["dialogue"]
    chat = tmp_path / "chat.txt"
    chat.write_text(CHAT, encoding="utf-8")
    rows = run_example(model.path, "--encoder", encoder.path, "--chat", chat)
    assert_rows(rows, [mmerc.load(tmp_path / "run").predict(chat)])
