"""Explanations of predictions that are already made, such as those of a recording."""

from mmerc.conversation import Prediction
from mmerc.explanation import Explanation
from mmerc.recognizer import Recognizer


def explain(recognizer: Recognizer, prediction: Prediction, most: int = 5) -> Explanation:
    """Say which turns mattered to a prediction, and keep what it says of the modalities.

    Args:
        recognizer: that made it
        prediction: its conversation brings along what was measured in a recording
        most: how many turns are named for each; 0 saves the search

    Raises:
        ConversationError, FeatureError: as `Recognizer.explain`.
    """
    if not most:
        return Explanation(prediction, ((),) * len(prediction))
    return Explanation(prediction, recognizer.explain(prediction.conversation, most).influences)
