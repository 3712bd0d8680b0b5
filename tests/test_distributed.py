import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from mmerc.config import RunConfig
from mmerc.corpus import Corpus
from mmerc.distributed import distinct, from_first, gather_rows, joined, processes, rank, total
from mmerc.errors import TrainingError
from mmerc.models import MODELS, resolve
from mmerc.task import Task
from mmerc.training import Listener, Trainer, train
from tiny import SMALL, config, make_bert, task, write, written

Answer = dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(world: int, work: Callable[[], Any], folder: Path) -> list[Any]:
    """Do `work()` in so many processes that torchrun might have started; return what each returns."""
    if sys.platform != "linux":
        pytest.skip("the processes are forks of this one, with all libraries loaded")
    context, port = get_context("fork"), free_port()

    def main(number: int) -> None:
        os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if sys.platform == "linux":  # where the machine's own name cannot be looked up
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        try:
            with joined():
                torch.save(work(), folder / f"answer-{number}.pt")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    folder.mkdir(exist_ok=True)
    children = [context.Process(target=main, args=[number]) for number in range(world)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * world
    return [torch.load(folder / f"answer-{number}.pt", weights_only=False) for number in range(world)]


@contextmanager
def without_dropout() -> Iterator[None]:
    """Each process draws dropout for itself: what they do together can only be compared without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "dropout", lambda x, *_, **__: x)
        patch.setattr(nn.Dropout, "forward", lambda _, x: x)
        patch.setattr(
            nn.functional,
            "scaled_dot_product_attention",
            partial(_attention, nn.functional.scaled_dot_product_attention),
        )
        yield


def _attention(attend: Callable[..., Tensor], *inputs: Any, **settings: Any) -> Tensor:
    return attend(*inputs, **settings | {"dropout_p": 0.0})


def still(run: RunConfig) -> RunConfig:
    """The same run with weights that stay as they are: every step of an epoch can be compared."""
    return replace(run, training=replace(run.training, learning_rate=1e-30, encoder_learning_rate=1e-30))


def an_epoch(of: Task) -> Answer:
    """Return the gradients of every step, the losses of the epoch, and what the network remembers of it."""
    trainer = Trainer(of, torch.device("cpu"))
    for module in trainer.pipeline.modules():
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
    trainer.fit_statistics()
    gradients: list[dict[str, Tensor | None]] = []

    def note(*_: Any) -> None:
        parameters = trainer.pipeline.named_parameters()
        gradients.append({k: None if p.grad is None else p.grad.clone() for k, p in parameters})

    trainer.optimizer.register_step_pre_hook(note)
    with without_dropout():
        losses = trainer.train_epoch(1, np.random.default_rng(0), Listener())
    return {"gradients": gradients, "losses": losses, "buffers": dict(trainer.pipeline.named_buffers())}


def assert_same_epoch(found: Answer, wanted: Answer) -> None:
    assert len(found["gradients"]) == len(wanted["gradients"])
    for own, other in zip(found["gradients"], wanted["gradients"], strict=True):
        for name, gradient in other.items():
            if gradient is None:
                assert own[name] is None or not own[name].any(), name
            else:
                assert_close(own[name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert found["losses"] == pytest.approx(wanted["losses"], abs=1e-6)
    for name, value in wanted["buffers"].items():
        assert_close(found["buffers"][name], value, atol=1e-6, rtol=1e-6)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(tmp_path_factory.mktemp("distributed") / "corpus")


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(corpus: Corpus, tmp_path: Path) -> None:
    of = task(corpus, still(config("df-erc", batch_size=4, clip_norm=0.5, modality_dropout=0.2)))
    alone = an_epoch(of)
    assert any(g is not None and g.any() for g in alone["gradients"][0].values())
    for found in together(2, lambda: an_epoch(of), tmp_path / "two"):
        assert_same_epoch(found, alone)


def small(model: str, preset: str, **settings: Any) -> RunConfig:
    """A small network with a preset's mechanisms; the last batch of an epoch has a single dialogue."""
    training = {"batch_size": 4, "batch_utterances": None, "clip_norm": 0.5, "modality_dropout": 0.2}
    layer = {"preset": preset, "network": SMALL[model] | settings, "training": training}
    return still(resolve(model, layer, {"training": {"class_weights": 0.5}}))


CASES = [small(model, preset) for model in MODELS for preset in MODELS[model].presets]
OTHERS = [
    small("cfn-esa", "refined", emotion_loss="focal"),
    small("cfn-esa", "refined", emotion_loss="official"),
]


@pytest.mark.slow
@pytest.mark.parametrize("run", CASES + OTHERS, ids=lambda run: f"{run.model}-{run.preset}")
def test_three_processes_have_the_gradients_of_one(run: RunConfig, corpus: Corpus, tmp_path: Path) -> None:
    of = task(corpus, run)
    alone = an_epoch(of)
    for found in together(3, lambda: an_epoch(of), tmp_path / "three"):
        assert_same_epoch(found, alone)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_text_encoder_is_trained_by_all(corpus: Corpus, tmp_path: Path, checkpointing: bool) -> None:
    bert = {"name": str(make_bert(tmp_path / "bert")), "gradient_checkpointing": checkpointing}
    of = task(corpus, still(config("df-erc", text_encoder=bert)))
    alone = an_epoch(of)
    assert any(name.startswith("encoder.") for name in alone["gradients"][0])
    for found in together(2, lambda: an_epoch(of), tmp_path / "two"):
        assert_same_epoch(found, alone)


def words(number: int) -> Tensor:
    return torch.arange(6.0).reshape(3, 2)[: number + 1].requires_grad_()


def talk() -> Answer:
    """What the processes tell each other, of which the second has more rows than the first."""
    rows = words(rank())
    gathered, before = gather_rows(rows)
    (gathered.sum(dim=1) * torch.arange(1.0, len(gathered) + 1) * (rank() + 1)).sum().backward()
    flags, _ = gather_rows(torch.arange(rank() + 1) > 0)
    try:
        from_first(broken)
    except TrainingError as error:
        said = str(error)
    return {
        "processes": processes(),
        "gathered": gathered.detach(),
        "before": before,
        "gradient": rows.grad,
        "flags": flags,
        "sum": total(torch.tensor([rank() + 1])),
        "distinct": distinct(torch.arange(3)),
        "first": from_first(lambda: rank() + 7),
        "said": said,
    }


def broken() -> None:
    raise TrainingError("no room")


def test_what_processes_tell_each_other(tmp_path: Path) -> None:
    first, second = together(2, talk, tmp_path / "two")
    for number, found in enumerate((first, second)):
        assert found["processes"] == 2
        assert_close(found["gathered"], torch.cat([words(0), words(1)]))
        assert found["before"] == number
        assert found["flags"].tolist() == [False, False, True]
        assert found["sum"].tolist() == [3]
        assert found["first"] == 7
        assert found["said"] == "no room"
    assert first["gradient"].tolist() == [[3.0, 3.0]]  # 1 · (1 + 2): both make use of the first row
    assert second["gradient"].tolist() == [[6.0, 6.0], [9.0, 9.0]]
    assert not set(first["distinct"].tolist()) & set(second["distinct"].tolist())


def test_alone_nothing_is_asked() -> None:
    rows = torch.ones(2, 3)
    with joined() as first:
        assert first
    assert processes() == 1
    assert rank() == 0
    assert total(rows) is rows
    assert gather_rows(rows) == (rows, 0)
    assert distinct(torch.arange(3)).tolist() == [0, 1, 2]
    assert from_first(lambda: "said") == "said"


def run_of(corpus: Corpus, **training: Any) -> Task:
    """A run whose epochs differ in what they reach; AdamW with a large eps does not magnify rounding."""
    plain = config(
        "df-erc", epochs=7, learning_rate=0.05, eps=1e-2, class_weights=0.5, ema_decay=0.5, **training
    )
    return task(corpus, plain)


def whole_run(of: Task, out: Path) -> Answer:
    with without_dropout():
        progress = train(of, out, resume=True)
    return {"best": progress.best_epoch, "history": progress.history}


def assert_same_run(found: Answer, wanted: Answer) -> None:
    assert found["best"] == wanted["best"]
    for own, other in zip(found["history"], wanted["history"], strict=True):
        assert own["losses"] == pytest.approx(other["losses"], abs=1e-6)
        assert own["validation"]["confusion"] == other["validation"]["confusion"]


@pytest.mark.slow
def test_the_same_epoch_is_selected(corpus: Corpus, tmp_path: Path) -> None:
    of = run_of(corpus)
    alone = whole_run(of, tmp_path / "alone")
    assert 1 < alone["best"] < 7  # else the comparison says little
    for found in together(2, lambda: whole_run(of, tmp_path / "run"), tmp_path / "two"):
        assert_same_run(found, alone)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "run"))
    for name, value in one.items():
        assert_close(two[name], value, atol=1e-6, rtol=1e-5)


TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node=2",
    "--no-python",
)


def torchrun(corpus: Corpus, out: Path, *more: str) -> subprocess.Popen[str]:
    """Start `torchrun … mmerc train` of a small DF-ERC over 40 epochs."""
    if sys.platform != "linux":
        pytest.skip("the workers of torchrun are found in /proc")
    mmerc = Path(sys.executable).with_name("mmerc")
    settings = ("training.epochs=40", "training.patience=40", "training.batch_size=4", "network.hidden=8")
    command = [*TORCHRUN, mmerc, "train", "df-erc", "--corpus", corpus.path, "--out", out, "--device=cpu"]
    pairs = [word for setting in settings for word in ("--set", setting)]
    return subprocess.Popen(
        [*map(str, command), *pairs, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def finished(run: subprocess.Popen[str]) -> str:
    """Return what a run said that ended well."""
    said, notes = run.communicate(timeout=300)
    assert run.returncode == 0, notes
    return said + notes


@pytest.mark.slow
def test_torchrun_goes_on_after_a_process_was_killed(corpus: Corpus, tmp_path: Path) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    said = finished(torchrun(corpus, whole))
    assert said.count("next: mmerc evaluate") == 1  # one process speaks for all
    run = torchrun(corpus, hurt)
    while not (hurt / "log.jsonl").exists():
        time.sleep(0.01)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="utf-8").split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    run.communicate(timeout=300)
    assert run.returncode != 0
    assert not (hurt / "checkpoint.json").exists()
    finished(torchrun(corpus, hurt, "--resume"))
    assert written(hurt) == written(whole)


@pytest.mark.slow
def test_a_mistake_is_told_and_ends_all_processes(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    run = torchrun(corpus, tmp_path)
    _, errors = run.communicate(timeout=300)
    assert run.returncode != 0
    assert "holds something else (notes.txt)" in errors
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["notes.txt"]
    both = torchrun(corpus, tmp_path / "out", "--jobs", "2")
    assert "torchrun makes processes share one" in both.communicate(timeout=300)[1]
