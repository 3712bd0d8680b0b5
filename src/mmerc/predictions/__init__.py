"""Predictions of many files: one result for each, side by side or on a cluster; what is done stays done."""

from mmerc.predictions.inputs import Input, find_inputs
from mmerc.predictions.work import Outcome, Setup, predict_files

__all__ = ["Input", "Outcome", "Setup", "find_inputs", "predict_files"]
