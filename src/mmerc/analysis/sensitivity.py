"""Figure 9: how much does the score depend on one setting?"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmerc.analysis.drawing import COLUMN, label_ends, line, look, new_figure

PAPER = {
    "network.alpha_similarity": "The paper saw a flat curve over α3 with its peak at 0.3 (figure 9).",
}


def sensitivity(setting: str, data: pd.DataFrame) -> str:
    """Say what the paper saw, if it varied this setting, and what these trials show.

    Args:
        setting: dotted key
        data: rows of `value`, `split`, `weighted_f1` and `weighted_f1_sd`, fractions
    """
    split = "test" if (data["split"] == "test").any() else "validation"
    table = data[data["split"] == split]
    best = table.sort_values("weighted_f1").iloc[-1]
    between = 100 * (table["weighted_f1"].max() - table["weighted_f1"].min())
    noise = 100 * float(np.sqrt((table["weighted_f1_sd"] ** 2).mean()))
    text = f"Here {split} weighted F1 is best at {best['value']:g}; the values differ by {between:.1f} points"
    if np.isfinite(noise):
        flat = "no more than chance would make them" if between <= 2 * noise else "more than chance"
        text += f" at an sd between seeds of {noise:.1f}: {flat}"
    return " ".join([*filter(None, [PAPER.get(setting)]), text + "."])


def draw(setting: str, data: pd.DataFrame) -> Figure:
    """Draw weighted F1 on validation, and on test if it was scored, against the setting."""
    figure = new_figure(COLUMN, 2.3)
    axes = figure.subplots()
    ends = []
    for k, (split, table) in enumerate(data.groupby("split", sort=False)):
        table = table.sort_values("value")
        line(axes, table["value"], table, "weighted_f1", look(k), hollow=k > 0, scale=100.0)
        ends.append((str(split), 100 * float(table["weighted_f1"].iloc[-1]), look(k).color))
    values = data["value"].to_numpy(dtype=float)
    if values.min() > 0 and values.max() / values.min() >= 50:
        axes.set_xscale("log")
    axes.set_xlabel(setting.rpartition(".")[2].replace("alpha_similarity", "α3"))
    axes.set_ylabel("weighted F1 (%)")
    label_ends(axes, ends)
    return figure
