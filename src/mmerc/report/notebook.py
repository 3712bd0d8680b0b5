"""A report in a notebook: in a frame of its own, which neither its style nor its script leaves."""

from html import escape
from typing import Final

from mmerc.conversation import Prediction
from mmerc.explanation import Explanation
from mmerc.report.page import TITLE, render_report

HEIGHT: Final = 640  # pixels; what is longer scrolls inside


def in_notebook(shown: Prediction | Explanation) -> str:
    """Return HTML for the output of a cell.

    A prediction alone does not know which turns moved which; finding out takes a while: `Recognizer.explain`.
    """
    explanation = shown if isinstance(shown, Explanation) else Explanation(shown, ((),) * len(shown))
    page = escape(render_report([explanation]))
    return (
        f'<iframe title="{TITLE}" sandbox="allow-scripts" '
        f'style="width:100%;height:{HEIGHT}px;border:0" srcdoc="{page}"></iframe>'
    )
