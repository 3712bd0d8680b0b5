"""Training one network on one split: chosen on validation, resumable, repeatable bit for bit on the CPU.

Randomness of epoch e comes from (seed, e) alone, so nothing about generators has to be saved. After every
epoch `state.pt` holds all that is needed to go on: a kill at any moment loses at most the running epoch.

Several processes (`mmerc.distributed`) may share a run: each takes every n-th dialogue of a batch, and what
they do together is what one process does with the whole batch, dropout apart, which each draws for itself.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmerc.batch import Batch, drop_modalities, length_buckets, uncounted
from mmerc.causality import require_no_look_ahead
from mmerc.checkpoint import CheckpointInfo, git_commit, save_checkpoint, versions
from mmerc.corpus import Modality, slice_rows
from mmerc.distributed import from_first, processes, rank
from mmerc.errors import TrainingError
from mmerc.examples import Examples
from mmerc.features.text import TextEncoder
from mmerc.metrics import score
from mmerc.models import choose_modalities
from mmerc.models.labels import require_fitting_labels
from mmerc.optimization import (
    Objective,
    choose_device,
    failures_explained,
    learning_rate_factor,
    make_optimizer,
    mixed_precision,
    return_large_blocks,
)
from mmerc.pipeline import Pipeline, build_pipeline
from mmerc.run_state import (
    Progress,
    begun_already,
    fingerprint,
    fitting,
    parse_progress,
    read_state,
    refusing,
    restore_optimizer,
    restore_scaler,
    warnings_about,
    write_state,
)
from mmerc.storage import exclusive, write_text
from mmerc.task import Dialogues, Task, class_weights


class Listener:
    """Told of a run's progress; the command line draws it, the default ignores it."""

    def begin(self, progress: Progress) -> None:
        """Before the first epoch: what was reached before, if the run goes on. It grows with the run."""

    def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
        """Every tenth step, and the last: dialogues done, and the running means of the losses."""

    def validated(self, epoch: int, pipeline: Pipeline, examples: Examples) -> None:
        """After the epoch's validation, with the weights that were validated; they must stay as they are."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After each epoch: the line that went into `log.jsonl`."""


def train(
    task: Task, out: Path, *, resume: bool = False, device: str = "auto", listener: Listener | None = None
) -> Progress:
    """Train a network and leave its best checkpoint in the folder `out`.

    Args:
        task: what to train on what
        out: the run's folder; checkpoint, `log.jsonl` and `state.pt` go there
        resume: go on with what `out` holds; a finished run is left as it is
        device: `auto`, or a torch device
        listener: told of every step and epoch

    Raises:
        TrainingError: training utterances without labels or without features, a loss that is not finite, a
            run already in `out`, another process that works on it, or a model that torch cannot compute.
        ConfigError, CorpusError, FeatureError: config and corpus do not fit.
    """
    chosen = choose_device(device)
    with failures_explained(task.run, chosen):
        if rank() > 0:  # the first process writes, and holds the folder for all
            return _train(task, out, resume, chosen, Listener())
        with exclusive(out, TrainingError):
            return _train(task, out, resume, chosen, listener or Listener())


def _train(task: Task, out: Path, resume: bool, device: torch.device, listener: Listener) -> Progress:
    state_path = out / "state.pt"
    begun = from_first(state_path.exists)
    if begun and not resume:
        raise begun_already(out)
    trainer = Trainer(task, device)
    if begun:
        trainer.load(state_path)
    else:
        trainer.fit_statistics()
    listener.begin(trainer.progress)
    if begun:
        if trainer.progress.finished(task.run.training) and (out / "checkpoint.json").exists():
            return trainer.progress
        trainer.write_log(out)
    while not trainer.progress.finished(task.run.training):
        record = trainer.run_epoch(listener)
        trainer.save(state_path)
        trainer.write_log(out)
        listener.epoch(record)
    trainer.write_checkpoint(out)
    return trainer.progress


class Trainer:
    """The state of one run and the steps that change it."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task = task
        self.config = task.run.training
        self.device = device
        require_no_look_ahead(task.run, task.corpus)
        require_fitting_labels(task.run, task.corpus)
        encoder_config = task.run.text_encoder
        encoder = TextEncoder.load(**asdict(encoder_config)) if encoder_config else None
        names = choose_modalities(task.run, list(task.corpus.modalities))
        self.modalities = {
            m: Modality(width=encoder.width, recipe=encoder.recipe)
            if encoder and m == "text"
            else task.corpus.modalities[m]
            for m in names
        }
        self.examples = Examples.from_corpus(task.corpus, names, encoder)
        if not self.examples.present[task.corpus.rows(task.train)].any():
            raise TrainingError(
                f"{task.corpus.path}: no utterance of the training split has any of: {', '.join(names)} "
                "(`mmerc corpus show` tells what is present)"
            )
        self.class_weights = class_weights(task, self.config.class_weights)
        torch.manual_seed(task.seed)
        self.pipeline = build_pipeline(
            task.run,
            {m: x.width for m, x in self.modalities.items()},
            len(task.corpus.labels),
            encoder,
            self.class_weights,
        ).to(device)
        self.objective: nn.Module = Objective(self.pipeline)
        if processes() > 1:
            # In a static graph parameters may stay without a gradient. Buffers (prototypes, counts) are of
            # the whole batch already; the argument that says so has other names in other releases of torch.
            shared = DistributedDataParallel(self.objective, static_graph=True)
            shared.broadcast_buffers = False
            self.objective = shared
        if self.pipeline.network.recomputes:
            return_large_blocks()
        self.encoder = encoder
        self.optimizer = make_optimizer(self.pipeline, self.config, device)
        self.lengths = np.diff(self.examples.offsets)
        steps = sum(1 for _ in self._batches(np.random.default_rng(0))) * self.config.epochs
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, learning_rate_factor(self.config, steps)
        )
        self.autocast, self.scaler = mixed_precision(self.config.precision, device)
        self.average = (
            {k: v.clone() for k, v in self.pipeline.state_dict().items()} if self.config.ema_decay else None
        )
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()

    def fit_statistics(self) -> None:
        """Take the standardising statistics from the training dialogues."""
        self.pipeline.fit(self.examples, self.task.train)
        if self.average is not None:
            self.average = {k: v.clone() for k, v in self.pipeline.state_dict().items()}

    def run_epoch(self, listener: Listener) -> dict[str, Any]:
        """Train one epoch, score the validation split, keep the weights if they are the best yet."""
        epoch = self.progress.epoch + 1
        generator = np.random.default_rng([self.task.seed, epoch])
        torch.manual_seed(int(generator.integers(2**62)) + rank())
        losses = self.train_epoch(epoch, generator, listener)
        validation = from_first(lambda: self._validate(listener))
        record: dict[str, Any] = {"epoch": epoch, "losses": losses, "validation": validation}
        record["warnings"] = warnings_about(validation)
        self.progress.epoch = epoch
        self.progress.history.append(record)
        weighted_f1 = validation["weighted_f1"]
        if weighted_f1 > self.progress.best_score:
            self.progress.best_score, self.progress.best_epoch = weighted_f1, epoch
            self.best = {k: v.detach().cpu().clone() for k, v in self._evaluated_state().items()}
        return record

    def train_epoch(self, epoch: int, generator: np.random.Generator, listener: Listener) -> dict[str, float]:
        """Take one pass over the training dialogues; return the mean of each loss over the steps."""
        self.pipeline.train()
        self.pipeline.network.start_epoch()
        sums: dict[str, Tensor] = {}
        done = steps = 0
        for positions in self._batches(generator):
            batch = self._share(self.task.train[positions], generator)
            values = self._step(batch.to(self.device))
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value
            done, steps = done + len(positions), steps + 1
            if steps % 10 == 0 or done == len(self.task.train):  # reading a value waits for the device
                means = {name: float(value) / steps for name, value in sums.items()}
                listener.step(epoch, done, len(self.task.train), means)
        if not all(np.isfinite(value) for value in means.values()):
            bad = ", ".join(name for name, value in means.items() if not np.isfinite(value))
            raise TrainingError(f"epoch {epoch}: {bad} is not finite; try a lower training.learning_rate")
        return means

    def _batches(self, generator: np.random.Generator) -> Iterator[Dialogues]:
        c = self.config
        return length_buckets(self.lengths[self.task.train], c.batch_size, generator, c.batch_utterances)

    def _share(self, dialogues: Dialogues, generator: np.random.Generator) -> Batch:
        """Return this process's dialogues of a batch; one that counts nothing, if there are not enough."""
        mine = np.arange(len(dialogues))[rank() :: processes()]
        batch = self.examples.batch(dialogues[mine] if len(mine) else dialogues[:1])
        if self.config.modality_dropout:  # drawn for the whole batch, by every process alike
            present = self.examples.present[self.task.corpus.rows(dialogues)]
            kept = drop_modalities(present, self.config.modality_dropout, generator)
            if len(mine):
                offsets = np.r_[0, np.cumsum(self.lengths[dialogues])]
                batch = batch._replace(present=kept[slice_rows(offsets, mine)])
        return batch if len(mine) else uncounted(batch)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        with self.autocast():
            losses, log = self.objective(batch)
        values = torch.stack(list(losses.values()))
        loss = values.sum()  # DDP's mean of gradients that went to every process is their sum
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.pipeline.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self._update_average(self.average)
        found: dict[str, Tensor] = dict(zip(losses, values.detach(), strict=True))
        found.update(log)
        return found

    @torch.no_grad()
    def _update_average(self, average: dict[str, Tensor]) -> None:
        # Early on the plain mean of the steps so far, so that the start is soon forgotten.
        step = self.schedule.last_epoch
        decay = min(self.config.ema_decay, step / (step + 10))
        state = self.pipeline.state_dict()
        moving = [name for name, value in state.items() if value.is_floating_point()]
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        update([average[k] for k in moving], [state[k] for k in moving], None)
        for name in state.keys() - moving:
            average[name].copy_(state[name])

    def _evaluated_state(self) -> dict[str, Tensor]:
        return self.average if self.average is not None else self.pipeline.state_dict()

    def _validate(self, listener: Listener) -> dict[str, Any]:
        trained = None
        if self.average is not None:
            trained = {k: v.clone() for k, v in self.pipeline.state_dict().items()}
            self.pipeline.load_state_dict(self.average)
        found = self.pipeline.infer(self.examples, self.task.validation)
        listener.validated(self.progress.epoch + 1, self.pipeline, self.examples)
        if trained is not None:
            self.pipeline.load_state_dict(trained)
        if not np.isfinite(found.probabilities).all():
            raise TrainingError(
                f"epoch {self.progress.epoch + 1}: the weights are not finite; "
                "try a lower training.learning_rate"
            )
        corpus = self.task.corpus
        targets = corpus.targets[corpus.rows(self.task.validation)]
        scores = score(found.probabilities, targets, corpus.labels).to_dict()
        if found.context_weight is not None and self.pipeline.network.gated:
            scores["context_weight_mean"] = float(found.context_weight.mean())
            scores["context_weight_sd"] = float(found.context_weight.std())
        return scores

    def save(self, path: Path) -> None:
        """Write everything that resuming needs, atomically.

        Raises:
            TrainingError: there is no room for it.
        """
        if rank() > 0:
            return
        state = {
            "pipeline": self.pipeline.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.last_epoch,
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "best": self.best,
            "progress": json.dumps(asdict(self.progress)),
            "identity": self._identity(),
        }
        write_state(path, state)

    def write_log(self, out: Path) -> None:
        """Write `log.jsonl`, a line per epoch."""
        if rank() == 0:
            write_text(out / "log.jsonl", "".join(json.dumps(r) + "\n" for r in self.progress.history))

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            TrainingError: the file is no whole state, or belongs to a run of another config, corpus or seed.
        """
        state, identity = read_state(path, self.device), self._identity()
        with refusing(path):
            if state["identity"] != identity:
                raise TrainingError(
                    f"{path} belongs to another run (config, corpus, its data, split or seed differ): "
                    "resume with the same arguments, or use another --out"
                )
            like = self.pipeline.state_dict()
            self.pipeline.load_state_dict(fitting(state["pipeline"], like))
            restore_optimizer(self.optimizer, self.schedule, state["optimizer"], state["schedule"])
            restore_scaler(self.scaler, state["scaler"])
            self.average = None if self.average is None else fitting(state["average"], like)
            self.best = fitting(state["best"], like)
            self.progress = parse_progress(state["progress"])

    def _identity(self) -> str:
        """What must be the same for a resumed run to be the same run."""
        task = self.task
        parts = [
            asdict(task.run),
            task.seed,
            task.fold,
            task.corpus.name,
            task.corpus.labels,
            {m: x.model_dump() for m, x in self.modalities.items()},
            [task.corpus.dialogue_ids[d] for d in task.train],
            [task.corpus.dialogue_ids[d] for d in task.validation],
            fingerprint(task, self.examples),
        ]
        return json.dumps(parts, sort_keys=True, default=list)

    def write_checkpoint(self, out: Path) -> None:
        """Write the best epoch's weights as a checkpoint folder."""
        if rank() > 0:
            return
        labels = self.task.corpus.labels
        record = self.progress.history[self.progress.best_epoch - 1]
        weights = self.class_weights
        info = CheckpointInfo(
            labels=labels,
            modalities=self.modalities,
            corpus=self.task.corpus.name,
            seed=self.task.seed,
            fold=self.task.fold,
            epoch=self.progress.best_epoch,
            validation=record["validation"],
            class_weights=None if weights is None else dict(zip(labels, weights.tolist(), strict=True)),
            versions=versions(),
            git_commit=git_commit(),
        )
        save_checkpoint(out, self.best, self.task.run, info, self.encoder)
