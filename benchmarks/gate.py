"""Is the hinge of DF-ERC's L_sim active, and does its gate spread, under either kind of initial weights?

    python benchmarks/gate.py corpora/hazumi1911 --preset official-iemocap --seeds 0 1 2

One split: the dialogues of `--fold` are the test set, which nothing here reads. For each kind of initial
weights and each seed: the share of active hinge terms before the first step and in the first and last epoch,
the spread of 1 − ψ over the validation utterances by epoch, and the best weighted F1 there.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from mmerc.batch import length_buckets
from mmerc.corpus import Corpus
from mmerc.experiments.runs import Run, task_of
from mmerc.models import resolve
from mmerc.task import Task
from mmerc.training import Trainer, train


@torch.no_grad()
def active_at_the_start(task: Task) -> float:
    """Return the share of active hinge terms over the training dialogues, dropout on, before any step."""
    trainer = Trainer(task, torch.device("cpu"))
    trainer.fit_statistics()
    trainer.pipeline.train()
    trainer.pipeline.network.start_epoch()
    size, rng = task.run.training.batch_size, np.random.default_rng(0)
    batches = length_buckets(trainer.lengths[task.train], size, rng, None)
    parts = [trainer.objective(trainer.examples.batch(task.train[p]))[1]["hinge_active"] for p in batches]
    return float(torch.stack(parts).mean())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--preset", default="official-iemocap")
    parser.add_argument("--initial-weights", nargs="+", default=["torch", "kaiming"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--fold", type=int, default=0)
    arguments = parser.parse_args()
    corpus, epochs = Corpus.open(arguments.corpus), arguments.epochs
    training = {"epochs": epochs, "patience": epochs, "class_weights": None}  # they are for other labels
    layer = {"preset": arguments.preset, "training": training}
    for kind in arguments.initial_weights:
        config = resolve("df-erc", layer, {"network": {"initial_weights": kind}})
        for seed in arguments.seeds:
            task = task_of(corpus, config, Run(Path(), seed, arguments.fold))
            start = active_at_the_start(task)
            with TemporaryDirectory() as out:
                history = train(task, Path(out) / "run", device="cpu").history
            active = [record["losses"]["hinge_active"] for record in history]
            spread = [record["validation"]["context_weight_sd"] for record in history]
            mean = history[-1]["validation"]["context_weight_mean"]
            best = 100 * max(record["validation"]["weighted_f1"] for record in history)
            print(
                f"{arguments.preset}, {kind}, seed {seed}: hinge active {start:.3f} at the start, "
                f"{active[0]:.3f} in the first epoch, {active[-1]:.3f} in the last; 1 − ψ at the end "
                f"{mean:.3f} ± {spread[-1]:.3f}, spread at most {max(spread):.3f}, in epoch 1 "
                f"{spread[0]:.3f}; validation wF1 {best:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
