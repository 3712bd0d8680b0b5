"""The runs that a run is compared with: ablations, in the folders that `mmerc ablate` gives them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mmerc.analysis.frozen_run import FrozenRun, read_run
from mmerc.analysis.groups import align


@dataclass
class Comparisons:
    """Reads each ablation below `folder` once, when a figure first asks for it."""

    run: FrozenRun
    folder: Path | None
    _read: dict[str, pd.DataFrame] = field(default_factory=dict)

    def beside(self, own: str, others: Mapping[str, str]) -> tuple[dict[str, pd.DataFrame], list[str]]:
        """Return the utterances of the run and of the ablations that are there, and notes on what is not.

        The tables hold the same seeds and utterances in the same order.

        Args:
            own: name of the run in the result
            others: name in the result → folder of the ablation

        Raises:
            CheckpointError, CorpusError, FeatureError: an ablation cannot be scored on the corpus.
        """
        tables, notes = {own: self.run.utterances}, []
        for name, variant in others.items():
            reason = self._missing(variant)
            if reason is None:
                joined = align({**tables, name: self._utterances(variant)})
                if joined[own].empty:
                    reason = f"{self.folder}/{variant} has no seed in common with the run"
                else:
                    tables = joined
            if reason is not None:
                notes.append(f"Drawn without “{name}”: {reason}.")
        seeds = sorted(set(tables[own]["seed"]))
        if seeds != self.run.seeds:
            notes.append(f"Only the seeds that all runs have are compared: {', '.join(map(str, seeds))}.")
        return tables, notes

    def _missing(self, variant: str) -> str | None:
        if self.folder is None:
            return f"no --compare folder with {variant} was given"
        if not any((self.folder / variant).glob("**/checkpoint.json")):
            return f"{self.folder} has no finished run {variant}"
        return None

    def _utterances(self, variant: str) -> pd.DataFrame:
        if variant not in self._read:
            assert self.folder is not None
            found = read_run(self.folder / variant, self.run.corpus, self.run.split, self.run.device)
            self._read[variant] = found.utterances
        return self._read[variant]
