"""Figure 10: t-SNE of the vectors of both branches by modality, and how far modalities are apart."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances, silhouette_score
from threadpoolctl import threadpool_limits

from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import PAGE, look, new_figure
from mmerc.analysis.findings import Finding, Skipped, cell, spread, verdict
from mmerc.analysis.frozen_run import Member
from mmerc.analysis.groups import over_seeds
from mmerc.analysis.internals import Hidden
from mmerc.tables import Grid

STEM, TITLE = "figure-10-disentanglement", "Figure 10: vectors of the two branches"
NAMES = {"input": "m̃, before DDM", "modality": "mᵐ, modality level", "utterance": "mᵘ, utterance level"}
DRAWN, MEASURED = 300, 2000  # utterances at most
SEED = 0
# Shares of vectors whose nearest one is of the same modality: from where on modalities are clusters, and
# below which they are mixed.
CLUSTERS, MIXED = 0.95, 0.5
PAPER = (
    "The paper saw three clusters of modalities after modality-level disentanglement, and modalities mixed "
    "after utterance-level disentanglement."
)

Floats = npt.NDArray[np.float32]


def disentanglement(comparisons: Comparisons) -> Finding | Skipped:
    """Return the finding of Figure 10; it needs a DF-ERC with a branch and two modalities."""
    inside = comparisons.run.hidden
    if not inside:
        return Skipped(STEM, TITLE, "the model is not a DF-ERC and has no DDM")
    member, first = inside[0]
    branches = [name for name in first.vectors if name != "input"]
    if not branches:
        return Skipped(STEM, TITLE, "both branches of the DDM are switched off")
    if len(member.modalities) < 2 or len(member.rows) < 3:
        return Skipped(STEM, TITLE, "there are fewer than two modalities, or hardly any utterances")
    separations = pd.DataFrame([row for m, h in inside for row in separation(m, h)])
    # The folds of a seed have different networks: their vectors are measured each by itself.
    table = separations.groupby(["seed", "vectors"], sort=False).mean().reset_index()
    fold = "" if member.fold is None else f", fold {member.fold}"
    drawn = min(DRAWN, len(member.rows))
    notes = [
        f"Drawn: {drawn} utterances, seed {member.seed}{fold}; the numbers are those of all checkpoints.",
        *(f"Drawn without {NAMES[x]}: switched off." for x in ("modality", "utterance") if x not in branches),
    ]
    data = pd.concat([embedding(member, first, name) for name in first.vectors], ignore_index=True)
    numbers = over_seeds(table, ["vectors"])
    return Finding(STEM, TITLE, PAPER, describe(table), data, draw, numbers, grid, tuple(notes))


def separation(member: Member, inside: Hidden) -> list[dict[str, object]]:
    """Return, for the input and each branch, how the vectors of present modalities lie to each other.

    `silhouette`: by modality, cosine distance; 1 for clusters far apart, 0 for mixed ones, below 0 where
    vectors lie nearer to another modality's. `same_modality`: the share of vectors whose nearest vector is of
    the same modality. `same_utterance`: the share of those whose nearest vector is another modality of the
    same utterance, among those that have one.
    """
    rows: list[dict[str, object]] = []
    chosen = _sample(len(member.rows), MEASURED)
    mask = member.present[chosen].T
    modality, position = np.nonzero(mask)
    utterance = chosen[position]
    for name, vectors in inside.vectors.items():
        flat = vectors[:, chosen][mask]
        distance = pairwise_distances(flat, metric="cosine")
        np.fill_diagonal(distance, 0.0)
        kinds = len(set(modality))
        silhouette = (
            silhouette_score(distance, modality, metric="precomputed") if 1 < kinds < len(flat) else np.nan
        )
        np.fill_diagonal(distance, np.inf)
        nearest = distance.argmin(axis=1)
        same = (utterance[nearest] == utterance)[pd.Series(utterance).duplicated(keep=False)]
        rows.append(
            {
                "seed": member.seed,
                "vectors": name,
                "silhouette": float(silhouette),
                "same_modality": float((modality[nearest] == modality).mean()),
                "same_utterance": float(same.mean()) if len(same) else np.nan,
            }
        )
    return rows


def _sample(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most so many positions below `count`, sorted, the same ones every time."""
    return np.sort(np.random.default_rng(SEED).permutation(count)[:most])


def embedding(member: Member, inside: Hidden, name: str) -> pd.DataFrame:
    """Return t-SNE coordinates of a branch's vectors: a row per drawn utterance and present modality."""
    chosen = _sample(len(member.rows), DRAWN)
    parts = []
    for k, modality in enumerate(member.modalities):
        kept = chosen[member.present[chosen, k]]
        parts.append((modality, member.rows[kept], inside.vectors[name][k, kept]))
    vectors = np.concatenate([x for _, _, x in parts])
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # the picture depends on the number of threads, and many wait for each other
        points = TSNE(metric="cosine", init="random", random_state=SEED, perplexity=perplexity).fit_transform(
            vectors
        )
    frame = pd.DataFrame(
        {
            "vectors": name,
            "modality": np.repeat([m for m, _, _ in parts], [len(rows) for _, rows, _ in parts]),
            "row": np.concatenate([rows for _, rows, _ in parts]),
        }
    )
    return frame.assign(x=points[:, 0], y=points[:, 1])


def describe(table: pd.DataFrame) -> str:
    """Say what a table of `separation`, a row per seed and kind of vectors, shows."""
    by = {name: part.set_index("seed") for name, part in table.groupby("vectors")}
    before = by["input"]
    parts = [
        f"Here, before DDM, the silhouette by modality is {spread(before['silhouette'], 1, 2)}, and of "
        f"{spread(before['same_modality'], 100, 0)} % of the vectors the nearest one is of the same modality."
    ]
    if "modality" in by:
        found = by["modality"]
        claim = verdict(found["silhouette"] - before["silhouette"])
        if found["same_modality"].mean() < CLUSTERS:
            claim = verdict([-1.0])
        elif before["same_modality"].mean() >= CLUSTERS:
            claim += "; but the modalities are clusters before DDM already"
        parts.append(f"At modality level it is {_said(found)}: {claim}.")
    if "utterance" in by:
        found = by["utterance"]
        parts.append(
            f"At utterance level it is {_said(found)}, and of the same utterance of "
            f"{spread(found['same_utterance'], 100, 0)} %: {verdict(MIXED - found['same_modality'])}."
        )
    return " ".join(parts)


def _said(found: pd.DataFrame) -> str:
    return f"{spread(found['silhouette'], 1, 2)}, and {spread(found['same_modality'], 100, 0)} %"


def draw(data: pd.DataFrame) -> Figure:
    """Draw the points of each branch in a panel of its own, a marker per modality."""
    panels = list(data.groupby("vectors", sort=False))
    figure = new_figure(PAGE * len(panels) / 3, 2.8)
    for axes, (name, points) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        for k, (modality, part) in enumerate(points.groupby("modality")):
            style = look(k)
            axes.scatter(
                part["x"], part["y"], s=7, marker=style.marker, linewidths=0.5, alpha=0.75,
                edgecolors=style.color, facecolors=style.color if k != 1 else "none",
                label=modality if axes is figure.axes[0] else None,
            )  # fmt: skip
        axes.set_title(NAMES[str(name)])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower center", ncols=data["modality"].nunique(), markerscale=1.6)
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table."""
    rows = [
        [
            NAMES[r["vectors"]],
            cell(r, "silhouette", 1.0, 3),
            cell(r, "same_modality"),
            cell(r, "same_utterance"),
        ]
        for _, r in data.iterrows()
    ]
    header = [
        "Vectors",
        "Silhouette by modality",
        "Nearest: same modality (%)",
        "Nearest: same utterance (%)",
    ]
    return Grid("How modalities lie to each other (cosine distance)", header, rows)
