"""What a notebook shows of a prediction and of an explanation."""

import html
import re

import pytest

from conversations import made_up
from mmerc.conversation import Conversation, Prediction, Utterance
from mmerc.explanation import Explanation
from mmerc.report import render_report

FRAME = re.compile(
    r'<iframe title="[^"<>]*" sandbox="allow-scripts" style="[^"<>]*" srcdoc="([^"<>]*)"></iframe>'
)


def page_in(shown: Prediction | Explanation) -> str:
    """The page in the frame; there is nothing beside the frame, whatever was said."""
    frame = FRAME.fullmatch(shown._repr_html_())
    assert frame is not None
    return html.unescape(frame[1])


def without_time(page: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", "", page)


def test_a_prediction_is_its_report() -> None:
    explanation = made_up()
    alone = Explanation(explanation.prediction, ((),) * len(explanation.prediction))
    assert without_time(page_in(explanation.prediction)) == without_time(render_report([alone]))
    assert without_time(page_in(explanation)) == without_time(render_report([explanation]))


@pytest.mark.parametrize("said", ['"></iframe><script>alert(1)</script>', "'><b>&quot;", "\ud800 \x00 😀"])
def test_nothing_gets_out_of_the_frame(said: str) -> None:
    (emotion, *_) = made_up().prediction.emotions
    prediction = Prediction(Conversation((Utterance(said, said),), said), (emotion,))
    assert "alert(1)</script>" not in page_in(prediction)


def test_it_is_not_heavy() -> None:
    prediction = made_up().prediction
    assert len(prediction._repr_html_()) < 80_000 + 5_000 * len(prediction)
