import ast
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import mmerc
from mmerc.checkpoint import load_checkpoint, model_card, save_checkpoint, versions
from mmerc.config import read_yaml
from mmerc.corpus import Corpus
from mmerc.errors import CheckpointError
from mmerc.models import resolve
from mmerc.storage import seal_text, sha256
from mmerc.training import Trainer, train
from tiny import LABELS, RECIPES, WIDTHS, config, every_model, make_bert, task

Edit = Callable[[Any], Any]


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("df-erc", epochs=2, class_weights=1.0)), out)
    return out


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "own"))


def edit_json(path: Path, edit: Edit) -> None:
    """Change a manifest on purpose: with its checksum."""
    value = edit(json.loads(path.read_text(encoding="utf-8")))
    if isinstance(value, dict):
        path.write_text(seal_text(json.dumps(value | {"sha256": ""})), encoding="utf-8")
    else:
        path.write_text(json.dumps(value), encoding="utf-8")


# Round trip


def test_a_preset_is_only_a_name_to_a_checkpoint(corpus: Corpus, tmp_path: Path) -> None:
    run = replace(config("mm-dfn", epochs=1), preset="official")  # what there was before one for each corpus
    train(task(corpus, run), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").run == run
    again = resolve("mm-dfn", read_yaml(tmp_path / "run" / "config.yaml"))
    assert again == run


@pytest.mark.parametrize("model", every_model())
def test_weights_come_back_bit_for_bit(corpus: Corpus, tmp_path: Path, model: str) -> None:
    run = config(model, epochs=1)
    trainer = Trainer(task(corpus, run), torch.device("cpu"))
    trainer.fit_statistics()
    trainer.pipeline.eval()
    train(task(corpus, run), tmp_path / "run")
    loaded = load_checkpoint(str(tmp_path / "run"))
    assert loaded.run == run
    assert not loaded.pipeline.training
    saved = load_file(tmp_path / "run" / "model.safetensors")
    state = loaded.pipeline.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(state[name], value) for name, value in saved.items())
    state = trainer.pipeline.state_dict()
    save_checkpoint(tmp_path / "again", state, run, loaded.info, None)
    again = load_checkpoint(tmp_path / "again").pipeline
    everything = np.arange(len(corpus.dialogue_ids))
    one, other = (p.infer(trainer.examples, everything).probabilities for p in (trainer.pipeline, again))
    assert (one == other).all()


def test_a_checkpoint_says_what_it_is(trained: Path) -> None:
    info = load_checkpoint(trained).info
    assert (info.labels, info.corpus, info.seed, info.fold) == (LABELS, "tiny", 0, None)
    assert {m: x.width for m, x in info.modalities.items()} == WIDTHS
    assert {m: x.recipe for m, x in info.modalities.items()} == RECIPES
    assert info.versions == versions()
    assert set(info.class_weights or {}) == set(LABELS)
    assert {"weighted_f1", "macro_f1", "per_class", "confusion"} <= set(info.validation)


def test_standardising_statistics_are_stored(corpus: Corpus, trained: Path) -> None:
    values, present = corpus.features("audio")
    rows = torch.from_numpy(corpus.rows(corpus.split("train")))
    seen = values[rows][present[rows]].double()
    state = load_checkpoint(trained).pipeline.state_dict()
    np.testing.assert_allclose(state["standardizer.mean_audio"], seen.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["standardizer.scale_audio"], 1 / seen.std(0, correction=0), rtol=1e-5)


def test_the_model_card(trained: Path) -> None:
    card = (trained / "README.md").read_text(encoding="utf-8")
    checkpoint = load_checkpoint(trained)
    assert card == model_card(checkpoint.run, checkpoint.info)
    assert ", ".join(LABELS) in card
    for recipe in RECIPES.values():
        assert str(recipe) in card
    for name in ("weighted_f1", "macro_f1", "accuracy"):
        assert f"{name.replace('_', ' ')} {100 * checkpoint.info.validation[name]:.2f}" in card
    assert f"epoch {checkpoint.info.epoch} was chosen" in card


def test_the_manifest_is_written_last(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(own)

    def fail(*_: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr("mmerc.checkpoint.folder.model_card", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(own, checkpoint.pipeline.state_dict(), checkpoint.run, checkpoint.info, None)
    with pytest.raises(CheckpointError, match=r"not a finished checkpoint: it has no checkpoint\.json"):
        load_checkpoint(own)


# What cannot be loaded


def test_not_a_folder(tmp_path: Path, trained: Path) -> None:
    for path in (tmp_path / "missing", trained / "config.yaml"):
        with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
            load_checkpoint(path)


def test_a_folder_of_several_runs_lists_them(trained: Path, tmp_path: Path) -> None:
    for name in ("seed-0/fold-1", "seed-0/fold-0"):
        shutil.copytree(trained, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"several runs.*name one of: seed-0/fold-0, seed-0/fold-1"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_a_damaged_file_is_named(own: Path, name: str, damage: str) -> None:
    path = own / name
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :]
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[:middle], "flipped": flipped}[damage])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        load_checkpoint(own)
    assert str(own) in str(caught.value)


def test_every_flipped_byte_of_the_weights_is_noticed(own: Path) -> None:
    path = own / "model.safetensors"
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(content), size=20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: its checksum"):
            load_checkpoint(own)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda x: x | {"format": 2}, r"checkpoint\.json: format"),
        (lambda x: x | {"labels": "joy"}, r"checkpoint\.json: labels"),
        (lambda x: x | {"surprise": 1}, r"checkpoint\.json: surprise"),
        (lambda x: {k: v for k, v in x.items() if k != "seed"}, r"checkpoint\.json: seed"),
        (lambda x: [x], r"checkpoint\.json"),
        (lambda x: x | {"weights_sha256": "0" * 64}, r"model\.safetensors is damaged"),
        (
            lambda x: x | {"labels": ["joy", "anger"]},
            r"does not fit config.* is \(2, 1, 3\), they say \(2, 1, 2\)",
        ),
        (lambda x: x | {"modalities": {"text": x["modalities"]["text"]}}, "cannot be loaded"),
        (
            lambda x: (
                x | {"modalities": x["modalities"] | {"text": x["modalities"]["text"] | {"width": 2**40}}}
            ),
            "more than any model",
        ),
    ],
)
def test_an_edited_manifest(own: Path, edit: Edit, said: str) -> None:
    edit_json(own / "checkpoint.json", edit)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(own)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "df-ecr"}, "no model 'df-ecr'"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"network": {"hiden": 6}}, "did you mean 'hidden'"),
        ({"training": {"epochs": -1}}, "epochs"),
        ({"network": {"hidden": 7}}, r"config\.yaml is damaged: its checksum"),
    ],
)
def test_an_edited_config(own: Path, change: dict[str, Any], said: str) -> None:
    path = own / "config.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8")) | change
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(own)
    assert str(own) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x * float("nan"), "holds NaN or infinity"),
        (lambda x: x - float("inf"), "holds NaN or infinity"),
        (lambda x: x.long(), r"holds torch\.int64, it should hold torch\.float32"),
        (lambda x: x.to(torch.complex64), r"holds torch\.complex64"),
    ],
)
def test_tensors_that_are_no_weights(own: Path, change: Edit, said: str) -> None:
    weights = load_file(own / "model.safetensors")
    name = next(name for name, x in weights.items() if x.is_floating_point() and x.ndim == 2)
    save_file(weights | {name: change(weights[name]).contiguous()}, own / "model.safetensors")
    sums = {"weights_sha256": sha256(own / "model.safetensors"), "sha256": ""}
    edit_json(own / "checkpoint.json", lambda info: info | sums)
    with pytest.raises(CheckpointError, match=f"{name} {said}"):
        load_checkpoint(own)


@pytest.mark.parametrize("name", ["/dev/zero", "../config.yaml", "", ".", "..", "a\0"])
def test_files_outside_the_checkpoint_are_not_read(own: Path, name: str) -> None:
    edit_json(own / "checkpoint.json", lambda info: info | {"encoder_sha256": {name: "0"}, "sha256": ""})
    with pytest.raises(CheckpointError, match="is not the name of a file in `encoder`"):
        load_checkpoint(own)


def test_tensors_of_another_network(own: Path) -> None:
    save_file({"weight": torch.zeros(3)}, own / "model.safetensors")
    digest = hashlib.sha256((own / "model.safetensors").read_bytes()).hexdigest()
    edit_json(own / "checkpoint.json", lambda x: x | {"weights_sha256": digest})
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .* is nothing, they say \(") as caught:
        load_checkpoint(own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "recipe.json", "config.json", "tokenizer.json"])
def test_a_damaged_encoder(corpus: Corpus, tmp_path: Path, damage: str) -> None:
    run = config(text_encoder={"name": str(make_bert(tmp_path / "bert"))}, epochs=1)
    train(task(corpus, run), tmp_path / "run")
    if damage == "missing":
        shutil.rmtree(tmp_path / "run" / "encoder")
    else:
        (tmp_path / "run" / "encoder" / damage).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="encoder"):
        load_checkpoint(tmp_path / "run")


# Code in data


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nothing_in_the_package_loads_a_pickle() -> None:
    forbidden = {
        "pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle", "joblib.load", "dill.load",
        "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "marshal.load", "marshal.loads",
    }  # fmt: skip
    seen = 0
    for path in Path(mmerc.__file__).parent.rglob("*.py"):
        for name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            where = f"{path.name}:{call.lineno}"
            assert name not in forbidden, where
            assert keywords.get("allow_pickle", "False") == "False", where
            assert keywords.get("trust_remote_code", "False") == "False", where
            if name == "torch.load":
                seen += 1
                assert keywords.get("weights_only") == "True", where
    assert seen
