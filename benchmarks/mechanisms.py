"""Do DF-ERC's mechanisms follow the truth of `scripted`? And is it better than the baselines?

    python benchmarks/mechanisms.py demo/scripted RUN [RUN …]

For each run folder (with one or more seeds): the spread of 1 − ψ, the AUC with which it tells contradictory
from consistent utterances, and Spearman's ρ between contributions and true reliabilities, all on the test
split, mean ± sd over seeds. Of the first run against each other one: the paired t-test over seeds on weighted
F1 (two-sided).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from mmerc.corpus import Corpus
from mmerc.evaluation import Evaluation, evaluate
from mmerc.manifest import require_intact
from mmerc.metrics import paired_test


def mechanisms(corpus: Corpus, evaluation: Evaluation) -> dict[str, float]:
    """Return what one seed's test predictions say about the gate and the contributions."""
    require_intact(corpus.path, corpus.manifest, "truth.parquet")
    truth = pd.read_parquet(corpus.path / "truth.parquet").iloc[evaluation.rows]
    contradicts, context = truth["contradicts"].to_numpy(), truth["context_dependent"].to_numpy()
    found = {"weighted F1": 100 * evaluation.scores.weighted_f1}
    weight, contributions = evaluation.context_weight, evaluation.contributions
    if weight is not None and weight.std() > 0:
        found["1 − ψ, mean"] = float(weight.mean())
        found["1 − ψ, spread"] = float(weight.std())
        found["AUC, contradictory : all others"] = float(roc_auc_score(contradicts, weight))
        plain = ~context
        found["AUC, contradictory : reliable"] = float(roc_auc_score(contradicts[plain], weight[plain]))
    if contributions is not None and contributions.std() > 0:
        names = sorted(set(corpus.modalities) & {"audio", "text", "visual"})
        reliability = truth[[f"reliability_{name}" for name in names]].to_numpy()
        present = np.stack([corpus.features(name)[1].numpy()[evaluation.rows] for name in names], axis=1)
        for k, name in enumerate(names):
            rows = present[:, k]
            found[f"Spearman, {name}"] = float(spearmanr(contributions[rows, k], reliability[rows, k])[0])
        found["Spearman, pooled"] = float(spearmanr(contributions[present], reliability[present])[0])
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    corpus = Corpus.open(arguments.corpus)
    by_run = {run: evaluate(run, corpus, device="cpu") for run in arguments.runs}
    for run, evaluations in by_run.items():
        print(f"{run}: {len(evaluations)} seed(s)")
        for name, values in pd.DataFrame([mechanisms(corpus, e) for e in evaluations]).items():
            sd = f" ± {values.std():.3f}" if len(values) > 1 else ""
            print(f"  {name:34s} {values.mean():7.3f}{sd}")
    first, *others = arguments.runs
    ours = [e.scores.weighted_f1 for e in by_run[first]]
    for other in others:
        theirs = [e.scores.weighted_f1 for e in by_run[other]]
        if len(ours) == len(theirs) > 1:
            gain = 100 * (np.mean(ours) - np.mean(theirs))
            print(f"{first} − {other}: {gain:+.2f} weighted F1, p = {paired_test(ours, theirs):.2g}")


if __name__ == "__main__":
    main()
