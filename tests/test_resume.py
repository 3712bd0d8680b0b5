import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmerc.config import RunConfig
from mmerc.corpus import Corpus
from mmerc.errors import TrainingError
from mmerc.models import MODELS
from mmerc.run_state import write_state
from mmerc.training import Listener, Trainer, train
from tiny import ALWAYS, LABELS, config, make_bert, tables, task, write, written

KILLED = """
import psutil, sys
from pathlib import Path
from tiny import config, task
from mmerc.corpus import Corpus
from mmerc.training import Listener, train

class Deadly(Listener):
    def step(self, epoch, done, total, losses):
        if epoch == 3 and done < total:
            psutil.Process().kill()

run = config("df-erc", epochs=5, batch_size=1)
train(task(Corpus.open(sys.argv[1]), run), Path(sys.argv[2]), listener=Deadly())
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    # The listener hears of a step inside an epoch only where there are more than ten.
    return write(tmp_path_factory.mktemp("corpus") / "tiny", *tables(25))


class Interrupted(BaseException):
    """What no code of ours catches, like the end of the process."""


class Stopping(Listener):
    """Stops a run in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
        if epoch == self.at:
            raise Interrupted


def stop(corpus: Corpus, run: RunConfig, out: Path, epoch: int) -> None:
    with pytest.raises(Interrupted):
        train(task(corpus, run), out, listener=Stopping(epoch))


def files(out: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(out.iterdir())}


# After a kill


@pytest.mark.slow
def test_after_kill_9_in_the_middle_of_an_epoch(corpus: Corpus, tmp_path: Path) -> None:
    here = Path(__file__).parent
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(corpus.path), str(tmp_path / "killed")], cwd=here, check=False
    )
    assert killed.returncode
    assert len((tmp_path / "killed" / "log.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert not (tmp_path / "killed" / "checkpoint.json").exists()
    run = config("df-erc", epochs=5, batch_size=1)
    train(task(corpus, run), tmp_path / "whole")
    train(task(corpus, run), tmp_path / "killed", resume=True)
    assert written(tmp_path / "killed") == written(tmp_path / "whole")


@pytest.mark.slow
def test_after_kill_9_at_any_moment(corpus: Corpus, tmp_path: Path) -> None:
    command = [
        sys.executable, "-c", "from mmerc.cli.main import run; run()",
        "train", "df-erc", "--corpus", corpus.path, "--device", "cpu",
        "--set", "training.epochs=30", "--set", "training.patience=60", "--set", "training.batch_size=1",
        "--set", "network.hidden=6", "--set", "network.relation_width=5", "--set", "network.context_hidden=4",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    generator = np.random.default_rng(0)
    kills = 0
    for _ in range(50):
        process = subprocess.Popen(
            [*command, "--out", tmp_path / "killed", "--resume"], env=environment, stdout=subprocess.DEVNULL
        )
        before = (tmp_path / "killed" / "log.jsonl").stat().st_mtime_ns if kills else 0
        while process.poll() is None:  # wait until it trains, then a moment of chance
            log = tmp_path / "killed" / "log.jsonl"
            if log.exists() and log.stat().st_mtime_ns != before:
                break
            time.sleep(0.002)
        time.sleep(float(generator.random()) * 0.5)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 2
    subprocess.run(
        [*command, "--out", tmp_path / "whole"], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    assert written(tmp_path / "killed") == written(tmp_path / "whole")


@pytest.mark.parametrize(
    "run",
    [
        *(pytest.param(config(m, epochs=2), marks=[] if m in ALWAYS else pytest.mark.slow) for m in MODELS),
        config("df-erc", epochs=2, ema_decay=0.9, modality_dropout=0.4, schedule="cosine", class_weights=0.5),
        config("late-fusion", epochs=2, warmup_steps=30, schedule="linear", standardize=False),
        config("late-fusion", epochs=2, precision="bf16"),
    ],
    ids=[*MODELS, "averaged", "warming up", "half precision"],
)
def test_an_interrupted_run_goes_on_bit_for_bit(corpus: Corpus, tmp_path: Path, run: RunConfig) -> None:
    train(task(corpus, run), tmp_path / "whole")
    whole = written(tmp_path / "whole")
    stop(corpus, run, tmp_path / "run", 2)
    torch.rand(5)
    train(task(corpus, run), tmp_path / "run", resume=True)
    assert written(tmp_path / "run") == whole


@pytest.mark.slow
def test_twice_interrupted_with_an_encoder_trained_along(corpus: Corpus, tmp_path: Path) -> None:
    bert = make_bert(tmp_path / "bert")
    run = config("df-erc", epochs=3, text_encoder={"name": str(bert)}, encoder_learning_rate=1e-3)
    train(task(corpus, run), tmp_path / "whole")
    stop(corpus, run, tmp_path / "run", 2)
    with pytest.raises(Interrupted):
        train(task(corpus, run), tmp_path / "run", resume=True, listener=Stopping(3))
    train(task(corpus, run), tmp_path / "run", resume=True)
    assert written(tmp_path / "run") == written(tmp_path / "whole")


def test_patience_counts_over_an_interruption(corpus: Corpus, tmp_path: Path) -> None:
    run = config("text-only", epochs=40, patience=3)
    whole = train(task(corpus, run), tmp_path / "whole")
    assert whole.epoch < 40
    stop(corpus, run, tmp_path / "run", whole.epoch - 1)
    assert train(task(corpus, run), tmp_path / "run", resume=True) == whole
    assert written(tmp_path / "run") == written(tmp_path / "whole")


def _while_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def half(state: dict[str, Any], path: Path) -> None:
        save(state, path)
        if json.loads(state["progress"])["epoch"] == 3:
            os.truncate(path, path.stat().st_size // 2)
            raise Interrupted

    monkeypatch.setattr(torch, "save", half)


def _before_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    write_log = Trainer.write_log

    def never(self: Trainer, out: Path) -> None:
        if self.progress.epoch == 3:
            raise Interrupted
        write_log(self, out)

    monkeypatch.setattr(Trainer, "write_log", never)


def _before_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Trainer, out: Path) -> None:
        raise Interrupted

    monkeypatch.setattr(Trainer, "write_checkpoint", never)


def _within_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr("mmerc.checkpoint.folder.model_card", never)


@pytest.mark.parametrize(
    "moment", [_while_saving, _before_the_log, _before_the_checkpoint, _within_the_checkpoint]
)
def test_interrupted_while_writing(
    corpus: Corpus, tmp_path: Path, moment: Callable[[pytest.MonkeyPatch], None]
) -> None:
    run = config("late-fusion", epochs=3)
    train(task(corpus, run), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        moment(patch)
        with pytest.raises(Interrupted):
            train(task(corpus, run), tmp_path / "run")
    train(task(corpus, run), tmp_path / "run", resume=True)
    assert written(tmp_path / "run") == written(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


# What can and what cannot be resumed


def test_a_finished_run_is_left_as_it_is(corpus: Corpus, tmp_path: Path) -> None:
    run = config("late-fusion", epochs=2)
    progress = train(task(corpus, run), tmp_path / "run")
    before = files(tmp_path / "run")
    assert train(task(corpus, run), tmp_path / "run", resume=True) == progress
    assert files(tmp_path / "run") == before


def test_resuming_what_never_began_starts_it(corpus: Corpus, tmp_path: Path) -> None:
    run = config("late-fusion", epochs=2)
    train(task(corpus, run), tmp_path / "plain")
    train(task(corpus, run), tmp_path / "resumed", resume=True)
    assert written(tmp_path / "plain") == written(tmp_path / "resumed")


def refused(corpus: Corpus, out: Path, run: RunConfig, seed: int = 0) -> None:
    before = files(out)
    with pytest.raises(TrainingError, match=r"belongs to another run .* resume with the same arguments"):
        train(task(corpus, run, seed), out, resume=True)
    assert files(out) == before


def test_another_config_or_seed_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    run = config("late-fusion", epochs=3)
    stop(corpus, run, tmp_path, 2)
    refused(corpus, tmp_path, run, seed=1)
    refused(corpus, tmp_path, config("late-fusion", epochs=4))
    refused(corpus, tmp_path, config("text-only", epochs=3))
    refused(corpus, tmp_path, replace(run, modalities=("text",)))


def test_another_corpus_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    run = config("late-fusion", epochs=3)
    stop(corpus, run, tmp_path / "run", 2)
    frame, features = tables(25)
    relabelled = frame.copy()
    relabelled.loc[0, "label"] = LABELS[LABELS.index(frame["label"][0]) - 1]
    moved = frame.assign(split=frame["split"].where(frame["dialogue_id"] != "d00", "test"))
    values = features["audio"].values.copy()
    values[int(np.flatnonzero(features["audio"].present)[0])] += 1
    changed = {**features, "audio": features["audio"]._replace(values=values)}
    recipe = {**features, "audio": features["audio"]._replace(recipe={"kind": "other"})}
    for number, (rows, vectors) in enumerate(
        [(relabelled, features), (moved, features), (frame, changed), (frame, recipe), tables(25, seed=1)]
    ):
        refused(write(tmp_path / f"other{number}", rows, vectors), tmp_path / "run", run)
    refused(write(tmp_path / "named", frame, features, name="other"), tmp_path / "run", run)
    refused(write(tmp_path / "order", frame, features, labels=LABELS[::-1]), tmp_path / "run", run)
    # The same corpus elsewhere is the same corpus.
    train(task(write(tmp_path / "copy", frame, features), run), tmp_path / "run", resume=True)


def _truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    start = len(content) // 2
    stretch = bytes(byte ^ 0xFF for byte in content[start : start + 100])  # longer than any padding
    return content[:start] + stretch + content[start + 100 :]


@pytest.mark.parametrize(
    "damage",
    [_truncate, _flip, lambda _: b"", lambda _: b"no state at all" * 20],
    ids=["cut", "flip", "empty", "text"],
)
def test_a_damaged_state_is_refused(corpus: Corpus, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run = config("late-fusion", epochs=3)
    stop(corpus, run, tmp_path, 2)
    path = tmp_path / "state.pt"
    path.write_bytes(damage(path.read_bytes()))
    before = files(tmp_path)
    with pytest.raises(
        TrainingError, match=r"state\.pt cannot be read \(.*delete the folder and start again"
    ):
        train(task(corpus, run), tmp_path, resume=True)
    assert files(tmp_path) == before


def _tensors(part: str, change: Callable[[torch.Tensor], object]) -> Callable[[dict[str, Any]], Any]:
    return lambda s: s | {part: {name: change(tensor) for name, tensor in s[part].items()}}


def _memory(change: Callable[[torch.Tensor], object]) -> Callable[[dict[str, Any]], Any]:
    def changed(state: dict[str, Any]) -> Any:
        kept = state["optimizer"]["state"]
        other = {n: {k: change(tensor) for k, tensor in kept[n].items()} for n in kept}
        return state | {"optimizer": state["optimizer"] | {"state": other}}

    return changed


def _progress(**values: object) -> Callable[[dict[str, Any]], Any]:
    return lambda s: s | {"progress": json.dumps(json.loads(s["progress"]) | values)}


OTHERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a tensor": lambda s: torch.zeros(3),
    "a list": lambda s: [s],
    "no identity": lambda s: {k: v for k, v in s.items() if k != "identity"},
    "no pipeline": lambda s: s | {"pipeline": None},
    "fewer tensors": lambda s: s | {"best": {}},
    "other shapes": _tensors("pipeline", lambda x: x[None]),
    "other types": _tensors("best", lambda x: x.to(torch.complex64)),
    "nowhere": _tensors("pipeline", lambda x: x.to("meta")),
    "no tensors": _tensors("average", lambda x: "x"),
    "no average": lambda s: s | {"average": None},
    "memory of other shapes": _memory(lambda x: torch.zeros(7)),
    "memory that is none": _memory(lambda x: 1.0),
    "memory of none": lambda s: s | {"optimizer": {"state": {-1: {}}}},
    "no memory": lambda s: s | {"optimizer": []},
    "steps": lambda s: s | {"schedule": "x"},
    "endless steps": lambda s: s | {"schedule": 2**70},
    "no progress": lambda s: s | {"progress": None},
    "endless nesting": lambda s: s | {"progress": "[" * 100_000},
    "another epoch": _progress(epoch=2**70),
    "no best epoch": _progress(best_epoch=0),
    "epochs in words": _progress(epoch="many"),
    "no history": _progress(history=[]),
    "a history of nothing": _progress(history=[{}]),
}


@pytest.fixture(scope="module")
def begun(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averaged weights that stopped in its second epoch."""
    out = tmp_path_factory.mktemp("begun")
    stop(corpus, config("text-only", epochs=3, ema_decay=0.9), out, 2)
    return out / "state.pt"


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_whole_state_of_something_else_is_refused(
    corpus: Corpus, begun: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    write_state(tmp_path / "state.pt", change(torch.load(begun, weights_only=True)))
    before = files(tmp_path)
    with pytest.raises(
        TrainingError, match=r"state\.pt cannot be read \(.+\): delete the folder and start again"
    ):
        train(task(corpus, config("text-only", epochs=3, ema_decay=0.9)), tmp_path, resume=True)
    assert files(tmp_path) == before


def test_any_flipped_byte_of_the_state_is_noticed_or_harmless(corpus: Corpus, tmp_path: Path) -> None:
    run = config("text-only", epochs=2)
    stop(corpus, run, tmp_path, 2)
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    trainer = Trainer(task(corpus, run), torch.device("cpu"))
    trainer.load(path)
    expected = {k: v.clone() for k, v in trainer.pipeline.state_dict().items()}
    noticed = 0
    for place in np.random.default_rng(0).integers(len(whole), size=60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            trainer.load(path)
        except TrainingError:
            noticed += 1
        else:  # in what no one reads, such as padding
            state = trainer.pipeline.state_dict()
            assert all(torch.equal(state[k], v) for k, v in expected.items())
    assert noticed > 10


def test_a_state_with_code_in_it_is_not_run(corpus: Corpus, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    run = config("late-fusion", epochs=3)
    torch.save({"identity": Evil()}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt cannot be read"):
        train(task(corpus, run), tmp_path, resume=True)
    assert not (tmp_path / "owned").exists()
