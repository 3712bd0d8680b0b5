import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmerc.config import TrainingConfig
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError
from mmerc.optimization import (
    choose_device,
    learning_rate_factor,
    make_optimizer,
    mixed_precision,
)
from mmerc.pipeline import build_pipeline
from mmerc.training import Listener, Trainer
from tiny import config, make_bert, task


def test_learning_rate_shapes() -> None:
    total = 50
    factors = {
        shape: [
            learning_rate_factor(TrainingConfig(warmup_steps=10, schedule=shape), total)(s)
            for s in range(total)
        ]
        for shape in ("constant", "linear", "cosine")
    }
    for values in factors.values():
        np.testing.assert_allclose(values[:10], np.arange(1, 11) / 10)
        assert values[10] == 1.0
    np.testing.assert_allclose(factors["linear"][10:], 1 - np.arange(40) / 40)
    np.testing.assert_allclose(factors["cosine"][10:], (1 + np.cos(np.pi * np.arange(40) / 40)) / 2)
    assert set(factors["constant"][10:]) == {1.0}
    assert learning_rate_factor(TrainingConfig(warmup_steps=0), 5)(0) == 1.0
    assert learning_rate_factor(TrainingConfig(warmup_steps=100), 5)(4) == 0.05


def test_the_schedule_runs_over_all_steps(corpus: Corpus) -> None:
    run = config(epochs=3, batch_size=2, warmup_steps=2, schedule="linear", learning_rate=0.5)
    trainer = Trainer(task(corpus, run), torch.device("cpu"))
    steps = -(-len(trainer.task.train) // 2) * 3
    for _ in range(3):
        trainer.run_epoch(Listener())
    assert trainer.schedule.last_epoch == steps
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


@pytest.mark.parametrize("decay_biases", [True, False])
def test_biases_decay_only_if_wanted(decay_biases: bool) -> None:
    run = config(decay_biases=decay_biases, weight_decay=0.3)
    pipeline = build_pipeline(run, {"text": 5}, 3)
    optimizer = make_optimizer(pipeline, run.training, torch.device("cpu"))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(pipeline.parameters()))
    for parameter in pipeline.parameters():
        assert decay[id(parameter)] == (0.3 if decay_biases or parameter.ndim > 1 else 0.0)


def test_a_text_encoder_has_its_own_learning_rate(corpus: Corpus, tmp_path: Path) -> None:
    bert = make_bert(tmp_path)
    run = config(text_encoder={"name": str(bert)}, encoder_learning_rate=1e-4, warmup_steps=4)
    trainer = Trainer(task(corpus, run), torch.device("cpu"))
    rates = {id(p): g["initial_lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert trainer.encoder is not None
    inside = {id(p) for p in trainer.encoder.parameters()}
    assert len(rates) == len(list(trainer.pipeline.parameters())) > len(inside)
    for parameter in trainer.pipeline.parameters():
        assert rates[id(parameter)] == (1e-4 if id(parameter) in inside else 0.02)
    assert {g["lr"] / g["initial_lr"] for g in trainer.optimizer.param_groups} == {0.25}


def test_devices_and_precisions() -> None:
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used"):
        choose_device("cuda:99")
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        mixed_precision("fp16", cpu)
    for precision, dtype in (("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
        autocast, scaler = mixed_precision(precision, cpu)
        with autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
        assert not scaler.is_enabled()


@pytest.mark.parametrize(("model", "recomputes"), [("cfn-esa", True), ("cfn-esa", False), ("df-erc", None)])
def test_memory_is_returned_where_a_network_saves_it(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, model: str, recomputes: bool | None
) -> None:
    calls = []
    monkeypatch.setattr("mmerc.training.return_large_blocks", lambda: calls.append(model))
    run = config(model)
    if recomputes is not None:
        run = replace(run, network=run.network | {"recompute": recomputes})
    Trainer(task(corpus, run), torch.device("cpu"))
    assert bool(calls) == bool(recomputes)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a property of the C library of Linux")
def test_large_blocks_are_returned() -> None:
    """In a process of its own: what 200 blocks of 2 MiB took is gone once they are freed."""
    program = """
import gc, torch
from mmerc.optimization import return_large_blocks
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
return_large_blocks()
torch.ones(2**22).sum()  # glibc raises its threshold when a large block is freed, unless told not to
blocks, small = [], []
before = resident()
for _ in range(200):
    blocks.append(torch.ones(2**19))
    small.append(torch.ones(2**10))
full = resident()
del blocks
gc.collect()
print(full - before, resident() - before)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True, env=environment
    )
    full, left = map(float, said.stdout.split())
    assert full > 390
    assert left < 50
