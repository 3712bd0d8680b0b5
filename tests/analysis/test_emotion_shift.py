from pathlib import Path

import pandas as pd

from mmerc.analysis.shift import FIRST, SAME, SHIFT, describe, kinds_of_turn
from tiny import write

DIALOGUE = [
    ("Ann", "joy", FIRST),
    ("Ben", "joy", FIRST),
    ("Ann", "joy", SAME),
    ("Ann", None, None),
    ("Ben", "anger", SHIFT),
    ("Ann", "sadness", SHIFT),  # against the joy before the turn without a label
    (None, "sadness", None),
    ("Ben", "anger", SAME),
    ("Cid", None, None),
    ("Cid", "joy", FIRST),
]


def test_a_dialogue_by_hand(tmp_path: Path) -> None:
    rows = [
        {"dialogue_id": name, "utterance_index": i, "speaker": speaker, "label": label, "split": "test"}
        for name in ("d1", "d2")  # nothing is carried over
        for i, (speaker, label, _) in enumerate(DIALOGUE)
    ]
    corpus = write(tmp_path / "c", pd.DataFrame(rows), {})
    assert kinds_of_turn(corpus).tolist() == 2 * [kind for _, _, kind in DIALOGUE]


def table(shift: list[float], same: list[float]) -> pd.DataFrame:
    rows = [
        {"seed": seed, "kind": kind, "accuracy": accuracy, "weighted_f1": accuracy, "utterances": 20}
        for kind, values in ((SHIFT, shift), (SAME, same))
        for seed, accuracy in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_sentence_follows_the_data() -> None:
    assert "a shift is harder (−20.0 ± 0.0 points)" in describe(table([0.5, 0.6], [0.7, 0.8]))
    assert "a shift is easier (+20.0 ± 0.0 points)" in describe(table([0.7, 0.8], [0.5, 0.6]))
    assert "a shift is neither harder nor easier" in describe(table([0.5, 0.8], [0.7, 0.6]))
    assert "no utterance where it stays" in describe(table([0.5], []))
