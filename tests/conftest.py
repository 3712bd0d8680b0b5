"""Makes `tests/helpers.py` importable; settings of hypothesis that hold for all tests."""

import os

from hypothesis import settings

# At a desk every run tries new examples; in CI the same ones, so that a change is judged by what it changes.
settings.register_profile("mmerc", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("mmerc")
