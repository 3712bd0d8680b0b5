"""How long training and prediction take, on generated features of MELD's shape.

    python benchmarks/speed.py [--threads 1] [--preset refined]

Prints one training epoch (forward to optimizer step) and where its time goes, the same run's matrix
product rate, so that figures carry over between machines, and the latency of a 10-utterance dialogue.
"""

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from mmerc.conversation import Conversation, Utterance
from mmerc.models import resolve
from mmerc.recognizer import load
from mmerc.task import Task
from mmerc.training import Listener, Trainer, train
from shapes import SHAPES, gemm_rate, write_noise

MELD = SHAPES["meld"]
# Where an epoch's time goes: part → the file and function whose cumulative time it is.
PARTS = {
    "build batches": ("mmerc/batch.py", "batch"),
    "forward and losses": ("mmerc/models/pipeline.py", "forward"),
    "backward": ("torch/_tensor.py", "backward"),
    "gradient clipping": ("torch/nn/utils/clip_grad.py", "clip_grad_norm_"),
    "optimizer": ("torch/optim/optimizer.py", "wrapper"),
}


def epoch_profile(trainer: Trainer) -> tuple[float, dict[str, float]]:
    """Return the seconds of one training epoch without validation, and the seconds of its parts."""
    profile = cProfile.Profile()
    profile.enable()
    trainer.train_epoch(1, np.random.default_rng(0), Listener())
    profile.disable()
    stats = pstats.Stats(profile)
    parts: dict[str, float] = defaultdict(float)
    for (file, _, function), (_, _, _, seconds, _) in stats.stats.items():  # type: ignore[attr-defined]  # not in typeshed
        for name, (ending, wanted) in PARTS.items():
            if file.endswith(ending) and function == wanted:
                parts[name] += seconds
    total = float(stats.total_tt)  # type: ignore[attr-defined]  # not in typeshed
    parts["rest"] = total - sum(parts.values())
    return total, dict(parts)


def latency(checkpoint: Path, repeats: int = 200) -> list[float]:
    """Return the milliseconds of predicting a dialogue of 10 utterances from ready features."""
    recognizer = load(checkpoint, "cpu")
    rng = np.random.default_rng(1)
    utterances = tuple(
        Utterance(features={m: rng.standard_normal(d).astype(np.float32) for m, d in MELD.widths.items()})
        for _ in range(10)
    )
    conversation = Conversation(utterances)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        recognizer.predict(conversation)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--preset", default=None)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {"training": {"epochs": 1, "batch_size": 8, "batch_utterances": None}}
    run = resolve("df-erc", settings, {"preset": arguments.preset} if arguments.preset else {})
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_noise(Path(folder) / "corpus", "meld")
        task = Task(corpus, run, corpus.split("train"), corpus.split("validation"), seed=0)
        trainer = Trainer(task, torch.device("cpu"))
        parameters = sum(p.numel() for p in trainer.pipeline.parameters())
        print(
            f"df-erc ({run.preset}), {parameters:,} parameters, "
            f"{arguments.threads} thread(s), torch {torch.__version__}"
        )
        print(f"{MELD.utterances} utterances, {MELD.dialogues} dialogues, batch {run.training.batch_size}")
        epochs = [epoch_profile(Trainer(task, torch.device("cpu"))) for _ in range(arguments.repeats)]
        rate = gemm_rate()
        total, parts = min(epochs, key=lambda pair: pair[0])
        print(f"one training epoch: {total:.2f} s (best of {arguments.repeats})")
        for name, seconds in sorted(parts.items(), key=lambda pair: -pair[1]):
            print(f"  {name:20s} {seconds:6.2f} s  {100 * seconds / total:5.1f} %")
        print(
            f"matrix product rate: {rate:.1f} GFLOP/s; "
            f"epoch = {total * rate / 1000:.2f} · 10¹² GEMM-equivalents"
        )
        train(task, Path(folder) / "run", device="cpu")
        times = latency(Path(folder) / "run")
        print(
            f"prediction of a dialogue of 10 utterances: median {statistics.median(times):.2f} ms, "
            f"95th percentile {times[int(0.95 * len(times))]:.2f} ms"
        )


if __name__ == "__main__":
    main()
