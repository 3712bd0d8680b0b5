"""Time, size and faithfulness of ONNX exports: every model and preset at MELD's shape, random weights.

    OMP_NUM_THREADS=1 python benchmarks/export.py

Beside them the time of one conversation of 20 utterances, by PyTorch and by onnxruntime, one thread each.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import onnxruntime
import torch

from mmerc.batch import Batch
from mmerc.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint, versions
from mmerc.corpus import Modality
from mmerc.export import STEPWISE, export_onnx
from mmerc.models import MODELS, choose_modalities, resolve
from mmerc.models.describe import MELD_CLASSES, MELD_WIDTHS
from mmerc.pipeline import build_pipeline

UTTERANCES = 20


def checkpoint(folder: Path, model: str, preset: str) -> None:
    """Write an untrained checkpoint."""
    run = resolve(model, {"preset": preset})
    names = choose_modalities(run, list(MELD_WIDTHS))
    torch.manual_seed(0)
    pipeline = build_pipeline(run, {m: MELD_WIDTHS[m] for m in names}, MELD_CLASSES)
    info = CheckpointInfo(
        labels=tuple(f"emotion {k}" for k in range(MELD_CLASSES)),
        modalities={m: Modality(width=MELD_WIDTHS[m], recipe={"kind": "random"}) for m in names},
        corpus="none",
        seed=0,
        fold=None,
        epoch=0,
        validation={},
        class_weights=None,
        versions=versions(),
        git_commit=None,
    )
    save_checkpoint(folder, pipeline.state_dict(), run, info, None)


def milliseconds(work: Callable[[], Any], times: int = 30) -> float:
    """Return the median time of `work`."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1000 * sorted(taken)[times // 2]


def compare(folder: Path, file: Path) -> tuple[float, float]:
    """Return the milliseconds that PyTorch and onnxruntime take for one conversation."""
    pipeline = load_checkpoint(folder).pipeline
    names = pipeline.network.modalities
    features = {m: torch.randn(UTTERANCES, MELD_WIDTHS[m]) for m in names}
    present = torch.ones(UTTERANCES, len(names), dtype=torch.bool)
    batch = Batch(features, present, torch.tensor([UTTERANCES]), torch.arange(UTTERANCES) % 2)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options)
    fed = {f"features_{m}": x.numpy() for m, x in features.items()} | {
        name: getattr(batch, name).numpy() for name in ("present", "lengths", "speakers")
    }
    with torch.inference_mode():
        return milliseconds(lambda: pipeline(batch)), milliseconds(lambda: session.run(None, fed))


def main() -> None:
    """Print a Markdown table."""
    torch.set_num_threads(1)
    print("| model | preset | export, s | MB | largest difference | PyTorch, ms | onnxruntime, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in (m for m in MODELS if m not in STEPWISE):
        for preset in MODELS[model].presets:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                checkpoint(folder, model, preset)
                start = time.perf_counter()
                written = export_onnx(folder, folder / "model.onnx")
                taken = time.perf_counter() - start
                torch_ms, onnx_ms = compare(folder, written.path)
                size, off = written.size / 1e6, written.difference
                cells = f"{taken:.1f} | {size:.1f} | {off:.0e} | {torch_ms:.1f} | {onnx_ms:.1f}"
                print(f"| {model} | {preset} | {cells} |")


if __name__ == "__main__":
    main()
