"""Training in bfloat16 on a processor without AVX-512, which oneDNN is told that this one is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmerc.models import MODELS

TRAIN = """
import sys
from pathlib import Path
import tiny
from mmerc.evaluation import evaluate
from mmerc.training import train

out = Path(sys.argv[1])
corpus = tiny.write(out / "corpus")
for model in sys.argv[2:]:
    for batch_size in (1, 9):  # dialogues of one length make a block, ragged ones packed steps
        run = tiny.config(model, epochs=1, batch_size=batch_size, precision="bf16")
        train(tiny.task(corpus, run), out / model / str(batch_size), device="cpu")
        evaluate(out / model / str(batch_size), corpus, device="cpu")
    print(model)
"""


@pytest.mark.slow
def test_every_model_trains_in_bfloat16_where_the_processor_has_none(tmp_path: Path) -> None:
    here = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    here["PYTHONPATH"] = str(Path(__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", TRAIN, tmp_path, *MODELS], env=here, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == list(MODELS)
