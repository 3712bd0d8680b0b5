"""A training step tells the device what to do without ever waiting for it, and computes in bfloat16, too.

The device is `meta`, which has no values to wait for (benchmarks/launches.py).
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from helpers import FullPrecision, judge, make_batch, make_network, modalities_of, networks_of, total
from mmerc.config import RunConfig
from mmerc.corpus import Corpus
from mmerc.models import MODELS, resolve
from mmerc.training import Trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from launches import META, HostWaitError, Launches, NoValues, take_step, watched

PRESETS = [(model, preset) for model, entry in MODELS.items() for preset in entry.presets]
WAITS = (HostWaitError, NotImplementedError, RuntimeError)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny.write(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.make_bert(tmp_path_factory.mktemp("bert")))


def steps(corpus: Corpus, run: RunConfig) -> Launches:
    """Take two steps of everything that training can do: the first one makes the optimizer's state."""
    run = replace(run, training=replace(run.training, clip_norm=1.0, ema_decay=0.9, class_weights=0.5))
    with watched() as launches:
        trainer = Trainer(tiny.task(corpus, run), META)
        trainer.pipeline.train()
        trainer.pipeline.network.start_epoch()
        for some in (slice(0, 4), slice(4, 8)):
            take_step(trainer, trainer.examples.batch(trainer.task.train[some]), launches)
    return launches


def check(corpus: Corpus, run: RunConfig) -> None:
    launches = steps(corpus, run)
    assert launches.operators["aten._fused_adamw_.default"]
    assert launches.operators["aten._foreach_norm.Scalar"]  # of the clipping
    assert launches.copies


@pytest.mark.slow
@pytest.mark.parametrize(("model", "preset"), PRESETS)
def test_a_step_never_waits_for_the_device(corpus: Corpus, model: str, preset: str) -> None:
    check(corpus, resolve(model, {"preset": preset, "network": tiny.SMALL[model]}))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("scope", ["dialogue", "utterance", "both"])
def test_a_step_with_a_text_encoder_never_waits(
    corpus: Corpus, bert: str, scope: str, checkpointing: bool
) -> None:
    encoder = {"name": bert, "scope": scope, "gradient_checkpointing": checkpointing}
    check(corpus, resolve("df-erc", {"network": tiny.SMALL["df-erc"], "text_encoder": encoder}))


X, MARKS, ROWS = torch.zeros(3, device=META), torch.ones(3, device=META) > 0, torch.tensor([0, 2])
ON_META = ROWS.to(META)


def assign() -> None:
    X.clone()[MARKS] = X


@pytest.mark.parametrize(
    "ask",
    [
        lambda: X.sum().item(),
        lambda: float(X[0]),
        lambda: bool(MARKS.any()),
        lambda: X.tolist(),
        lambda: X.cpu(),
        lambda: MARKS.nonzero(),
        lambda: torch.where(MARKS),
        lambda: X[MARKS],
        assign,
        lambda: X.masked_select(MARKS),
        lambda: X.unique(),
        lambda: torch.repeat_interleave(X, ON_META),
        lambda: ROWS.to(META),
        lambda: X.clone()[:2].copy_(ROWS),
        lambda: X[ROWS],
        lambda: X[[0, 2]],
        lambda: X + torch.zeros(3),
        lambda: torch.tensor([1.0, 2.0], device=META),
        lambda: X.new_tensor([1.0]),
    ],
)
def test_what_waits_is_refused(ask: Callable[[], Any]) -> None:
    with pytest.raises(WAITS), watched() as launches, launches, NoValues():
        ask()


@pytest.mark.parametrize(
    "go",
    [
        lambda: X * 2 + torch.zeros(()),
        lambda: X.masked_fill(MARKS, 0.0),
        lambda: X[ON_META],
        lambda: X[1:, None],
        lambda: torch.where(MARKS, X, 0.5),
        lambda: ROWS.to(META, non_blocking=True),
        lambda: torch.arange(3, device=META),
    ],
)
def test_what_does_not_wait_is_let_through(go: Callable[[], Tensor]) -> None:
    with watched() as launches, launches, NoValues():
        assert go().is_meta


@pytest.mark.parametrize(
    ("model", "preset"), [(model, preset) for model in MODELS for preset in networks_of(model)]
)
def test_a_step_in_bfloat16_is_close_to_one_in_full_precision(model: str, preset: str) -> None:
    batch = make_batch([3, 1, 6, 2], modalities_of(model), missing=0.2, unlabelled=0.2)
    losses, gradients = {}, {}
    for kind in (torch.float32, torch.bfloat16):
        network = make_network(model, preset)
        with FullPrecision(), torch.autocast("cpu", kind, enabled=kind is torch.bfloat16):
            output = judge(network, batch)
        total(output).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=True)
        losses[kind] = output.losses
        gradients[kind] = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        assert gradients[kind].dtype == torch.float32
    for name, exact in losses[torch.float32].items():
        torch.testing.assert_close(losses[torch.bfloat16][name].float(), exact, rtol=0.03, atol=0.003)
    assert torch.cosine_similarity(*gradients.values(), dim=0) > 0.99
