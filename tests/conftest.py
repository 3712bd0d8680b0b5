"""Makes `tests/helpers.py` importable; settings of hypothesis that hold for all tests."""

from hypothesis import settings

settings.register_profile("mmerc", deadline=None)
settings.load_profile("mmerc")
