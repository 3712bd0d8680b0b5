"""Make a shipped model of a run: choose its seed on validation, calibrate, halve the weights, write the card.

    python benchmarks/pack.py RUN --corpus DIR --name meld-text --out src/mmerc/shipped/meld-text

RUN holds several seeds of DF-ERC. The seed with the best weighted F1 on validation is taken. Its confidence
is calibrated by one temperature, fitted on validation and folded into the last layer. The test split is read
once, for the card (card.md.j2): all seeds, and the shipped model.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from torch import Tensor

from mmerc.analysis.temperature import fit_temperature
from mmerc.checkpoint import front_matter, load_checkpoint, save_checkpoint
from mmerc.corpus import Corpus
from mmerc.evaluation import evaluate, find_checkpoints, infer
from mmerc.metrics import summarise
from mmerc.shipped import SHIPPED
from mmerc.storage import write_text

HEADLINE = {
    "weighted F1": "weighted_f1",
    "macro F1": "macro_f1",
    "accuracy": "accuracy",
    "expected calibration error": "expected_calibration_error",
}
CARD = Path(__file__).with_name("card.md.j2")
LAST = "network.classifier.1."  # DF-ERC's layer that gives the logits (eq. 23)


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in half precision; the statistics that standardise features stay as they are."""
    return {
        name: value if name.startswith("standardizer.") or not value.is_floating_point() else value.half()
        for name, value in state.items()
    }


def pack(run: Path, corpus: Corpus, out: Path) -> tuple[float, float]:
    """Write the checkpoint; return its temperature and the largest change of a probability by halving."""
    folders = find_checkpoints(run)
    best = max(folders, key=lambda folder: load_checkpoint(folder).info.validation["weighted_f1"])
    checkpoint = load_checkpoint(best)
    validation = corpus.split("validation")
    targets = corpus.targets[corpus.rows(validation)]
    before = infer(checkpoint, corpus, validation, "cpu").probabilities
    temperature = fit_temperature(before, targets)
    state = {name: value.clone() for name, value in checkpoint.pipeline.state_dict().items()}
    for part in ("weight", "bias"):
        state[LAST + part] /= temperature
    checkpoint.pipeline.load_state_dict(state)
    exact = infer(checkpoint, corpus, validation, "cpu").probabilities
    assert (exact.argmax(axis=1) == before.argmax(axis=1)).all()
    save_checkpoint(out, halved(state), checkpoint.run, checkpoint.info, None)
    half = infer(load_checkpoint(out), corpus, validation, "cpu").probabilities
    return temperature, float(np.abs(half - exact).max())


def card(name: str, folder: Path, run: Path, corpus: Corpus, temperature: float, change: float) -> str:
    """Return the model card; reads the test split."""
    checkpoint = load_checkpoint(folder)
    (shipped,) = evaluate(folder, corpus, device="cpu")
    summary = summarise([found.scores for found in evaluate(run, corpus, device="cpu")])
    live = name == "meld-text-live"
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(CARD.read_text(encoding="utf-8"))
    return template.render(
        name=name,
        about=SHIPPED[name],
        info=checkpoint.info,
        front_matter=front_matter(
            checkpoint.run, checkpoint.info, test=shipped.scores, name=name, license="mit", language="en"
        ),
        shipped=shipped.scores,
        summary=summary,
        headline=HEADLINE.items(),
        variant=" with one-way context (`causal`)" if live else "",
        scope="of each utterance alone" if live else "of the utterance in its dialogue, and alone",
        temperature=temperature,
        change=change,
    )


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--name", required=True, choices=SHIPPED)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus.open(options.corpus)
    temperature, change = pack(options.run, corpus, options.out)
    text = card(options.name, options.out, options.run, corpus, temperature, change)
    write_text(options.out / "README.md", text)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 2**20
    print(text.partition("## Use")[0])
    print(f"{options.out}: {size:.1f} MiB")


if __name__ == "__main__":
    main()
