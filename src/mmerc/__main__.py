"""`python -m mmerc`: the same as `mmerc`."""

from mmerc.cli.main import run

if __name__ == "__main__":
    run()
