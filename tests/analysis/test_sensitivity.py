import pandas as pd
import pytest

from mmerc.analysis.sensitivity import draw, sensitivity


def trials(scores: list[float], sd: float, split: str = "validation") -> pd.DataFrame:
    values = [0.1 * k for k in range(len(scores))]
    return pd.DataFrame({"value": values, "split": split, "weighted_f1": scores, "weighted_f1_sd": sd})


@pytest.mark.parametrize(
    ("scores", "sd", "said"),
    [
        (
            [0.60, 0.61, 0.60],
            0.01,
            "best at 0.1; the values differ by 1.0 points at an sd between seeds of 1.0: no",
        ),
        ([0.60, 0.70, 0.60], 0.01, "differ by 10.0 points at an sd between seeds of 1.0: more than chance"),
        ([0.60, 0.70, 0.80], float("nan"), "best at 0.2; the values differ by 20.0 points."),
    ],
)
def test_the_sentence_follows_the_data(scores: list[float], sd: float, said: str) -> None:
    assert said in sensitivity("network.beta", trials(scores, sd))


def test_the_test_split_is_spoken_of_where_it_was_scored() -> None:
    data = pd.concat([trials([0.9, 0.1], 0.01), trials([0.1, 0.9], 0.01, "test")])
    text = sensitivity("network.alpha_similarity", data)
    assert "The paper saw a flat curve" in text
    assert "test weighted F1 is best at 0.1" in text


def test_the_curve_has_a_line_per_split() -> None:
    data = pd.concat([trials([0.9, 0.1], 0.01), trials([0.1, 0.9], 0.01, "test")])
    (axes,) = draw("network.alpha_similarity", data).axes
    assert axes.get_xlabel() == "α3"
    assert len(axes.containers) == 2
