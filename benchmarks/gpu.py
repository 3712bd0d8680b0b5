"""What training costs on a GPU: epochs of DF-ERC on features, and steps with a large text encoder.

    python benchmarks/gpu.py [--device cuda] [--epochs 10] [--encoder roberta-large|minilm|none]

Prints two Markdown tables. The first, on features of MELD's shape: seconds of an epoch and of all epochs
(forward to optimizer step, without validation), the kernels that a step launches by torch's profiler, whether
anything in a step waits for the GPU, and its memory at the peak. The second: a step of DF-ERC on text, audio
and visual with an encoder of RoBERTa-large's shape (random weights) trained along, at the batch sizes of the
paper. With `--device cpu --epochs 1 --encoder minilm` it runs anywhere, to see that it works; what only a GPU
can tell is then left out.
"""

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mmerc.batch import Batch
from mmerc.corpus import Corpus
from mmerc.errors import MmercError
from mmerc.features.text import TextEncoder
from mmerc.models import resolve
from mmerc.models.describe import MELD_CLASSES, MELD_WIDTHS
from mmerc.optimization import Objective, choose_device, make_optimizer, mixed_precision
from mmerc.pipeline import build_pipeline
from mmerc.task import Task
from mmerc.training import Listener, Trainer
from shapes import write_noise
from text import BATCHES, draw_texts, random_roberta, token_ids

PRECISIONS = ("bf16", "fp32")
LAUNCHES = ("cudaLaunch", "cuLaunch")  # of the CUDA runtime, of its driver
NOTHING = "–"


def now(device: torch.device) -> float:
    """Return the time when the device is done with all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    """Let the peak of the device's memory begin anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> str:
    """Return the largest memory of the device that tensors took, in GiB."""
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f}" if device.type == "cuda" else NOTHING


def launches(trainer: Trainer, batch: Batch) -> str:
    """Return how many kernels a step launches."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        trainer._step(batch.to(trainer.device))
        now(trainer.device)
    found = sum(event.count for event in profile.key_averages() if event.key.startswith(LAUNCHES))
    return f"{found:,}" if trainer.device.type == "cuda" else NOTHING


def waits(trainer: Trainer, batch: Batch) -> str:
    """Return what in a step waits for the GPU, as torch says it."""
    if trainer.device.type != "cuda":
        return NOTHING
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._step(batch.to(trainer.device))
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "nothing"


def feature_row(corpus: Corpus, precision: str, epochs: int, device: torch.device) -> str:
    """Train `epochs` epochs, after one to warm up, and return a row of the table."""
    settings = {"precision": precision, "batch_size": 8, "batch_utterances": None}
    run = resolve("df-erc", {"training": settings})
    forget_peak(device)
    trainer = Trainer(Task(corpus, run, corpus.split("train"), corpus.split("validation"), seed=0), device)
    times = []
    for epoch in range(epochs + 1):
        start = now(device)
        trainer.train_epoch(epoch + 1, np.random.default_rng(epoch), Listener())
        times.append(now(device) - start)
    memory = peak(device)
    batch = trainer.examples.batch(trainer.task.train[:8])
    cells = (launches(trainer, batch), waits(trainer, batch), memory)
    return f"| {precision} | {min(times[1:]):.2f} | {sum(times[1:]):.2f} | {' | '.join(cells)} |"


def text_batch(encoder: TextEncoder, dialogues: int, utterances: int) -> Batch:
    """Draw a batch of equally long dialogues with texts, and noise as audio and visual."""
    rng, rows = np.random.default_rng(0), dialogues * utterances
    ids = token_ids(encoder, draw_texts(encoder, [utterances] * dialogues, rng))
    return Batch(
        features={m: torch.randn(rows, MELD_WIDTHS[m]) for m in ("audio", "visual")},
        present=torch.ones(rows, 3, dtype=torch.bool),
        lengths=torch.full((dialogues,), utterances),
        speakers=torch.arange(rows) % 2,
        labels=torch.from_numpy(rng.integers(0, MELD_CLASSES, rows)),
        tokens=encoder.pack(ids),
    )


def text_row(name: str, shape: str, precision: str, checkpointing: bool, device: torch.device) -> str:
    """Take steps with a text encoder, and return a row of the table."""
    forget_peak(device)
    torch.manual_seed(0)
    large = name == "roberta-large"
    encoder = (
        random_roberta(checkpointing)
        if large
        else TextEncoder.load(name, gradient_checkpointing=checkpointing)
    )
    run = resolve("df-erc", {"training": {"precision": precision}})
    widths = {**MELD_WIDTHS, "text": encoder.width}
    pipeline = build_pipeline(run, widths, MELD_CLASSES, encoder).to(device).train()
    objective, optimizer = Objective(pipeline), make_optimizer(pipeline, run.training, device)
    autocast, _ = mixed_precision(precision, device)
    batch = text_batch(encoder, *BATCHES[shape])
    tokens = sum(int((block.attention_mask > 0).sum()) for block in batch.tokens or ())
    times = []
    for _ in range(6 if device.type == "cuda" else 2):
        start = now(device)
        with autocast():
            losses, _ = objective(batch.to(device))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(pipeline.parameters(), run.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(now(device) - start)
    seconds = statistics.median(times[1:])
    flag = "yes" if checkpointing else "no"
    dialogues, utterances = BATCHES[shape]
    return (
        f"| {name} | {shape}: {dialogues} × {utterances} | {precision} | {flag} | {tokens:,} | "
        f"{1000 * seconds:,.0f} | {tokens / seconds:,.0f} | {peak(device)} |"
    )


def print_features(epochs: int, device: torch.device) -> None:
    """Print the table of epochs on features."""
    print(f"| precision | s an epoch | s for {epochs} | kernels a step | waits in a step | peak GiB |")
    print("| --- | ---: | ---: | ---: | --- | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_noise(Path(folder) / "corpus", "meld")
        for precision in PRECISIONS:
            print(feature_row(corpus, precision, epochs, device), flush=True)


def print_text(name: str, device: torch.device) -> None:
    """Print the table of steps with a text encoder."""
    print(
        "\n| encoder | batch: dialogues × utterances | precision | gradient checkpointing | tokens | "
        "ms a step | tokens/s | peak GiB |"
    )
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
    for shape in BATCHES:
        for precision in PRECISIONS:
            for checkpointing in (False, True):
                try:
                    row = text_row(name, shape, precision, checkpointing, device)
                except torch.OutOfMemoryError:
                    row = f"| {name} | {shape} | {precision} | {checkpointing} | too large for this GPU |"
                print(row, flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--encoder", choices=("roberta-large", "minilm", "none"), default="roberta-large")
    arguments = parser.parse_args()
    try:
        device = choose_device(arguments.device)
    except MmercError as error:
        parser.error(str(error))
    if arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}; df-erc (refined), MELD-shaped noise, batches of 8 dialogues\n")
    print_features(arguments.epochs, device)
    if arguments.encoder != "none":
        print_text(arguments.encoder, device)


if __name__ == "__main__":
    main()
