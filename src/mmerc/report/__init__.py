"""The HTML report: one file that shows which emotion, when, whose, how surely, and because of what."""

from mmerc.report.page import render_report, write_report
from mmerc.report.reasons import explain

__all__ = ["explain", "render_report", "write_report"]
