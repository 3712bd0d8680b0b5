"""A corpus may be larger than memory: what a process takes for itself does not grow with the features."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SIZES = (100_000, 400_000)
WIDTH = 64 + 32 + 16  # of benchmarks/huge.py


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_own_memory_hardly_grows_with_the_corpus(tmp_path: Path) -> None:
    sizes = ",".join(map(str, SIZES))
    command = [sys.executable, "benchmarks/huge.py", "--utterances", sizes, "--steps", "20"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    _, small, large = re.split(r"utterances: .*", done.stdout)
    own = [max(map(int, re.findall(r"\| (\d+) \| \d+ \| \d+ \|", table))) for table in (small, large)]
    features = (SIZES[1] - SIZES[0]) * WIDTH * 4 / 2**20
    assert own[1] - own[0] < 0.8 * features  # the utterance table and a number or two for each utterance
