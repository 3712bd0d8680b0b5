"""What people have and what they get: transcripts read into conversations, predictions written out."""

from mmerc.transcripts.reading import read_transcript
from mmerc.transcripts.writing import render, write_predictions

__all__ = ["read_transcript", "render", "write_predictions"]
