"""The table of docs/reproduce.md, "On the authors' weights": how far our networks are from the authors' code.

    python benchmarks/parity.py

Needs ../shared/parity. What is undone for a comparison is said in tests/parity.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "parity")]

import authors_weights as tables  # type: ignore[import-not-found]  # noqa: E402  # a test
from authors import Authors, Copied, distance, double  # type: ignore[import-not-found]  # noqa: E402  # a test
from test_parity import CASES, copied, that_ours_has  # type: ignore[import-not-found]  # noqa: E402  # a test

from helpers import judge, total  # type: ignore[import-not-found]  # noqa: E402  # a test

MEASURED = ("logits", "objective", "gradients")
OBJECTIVE = {file: f"loss.{case.loss}" for file, case in CASES.items()} | {
    "df-erc": "loss.total_as_published"
}


def apart(file: str) -> tuple[float, float, float]:
    """Return how far logits, objective and gradients (by the largest of all) are from the authors'."""
    if file == "df-erc":
        authors = Authors(file)
        ours = Copied(authors.network("official-iemocap"), authors.part("weight"), tables.df_erc)
        expected = authors.part("gradient")
    else:
        authors, ours = copied(file)
        expected = that_ours_has(file, authors.part("gradient"))
    judged = judge(ours.network, authors.batch())
    gradients = ours.gradients(total(judged))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    return (
        distance(judged.logits, authors.output("logits")),
        distance(total(judged), authors.output(OBJECTIVE[file])),
        max(distance(gradients[name], gradient) for name, gradient in expected.items()) / largest,
    )


def main() -> None:
    """Print the table."""
    columns = [f"{what}, {precision}" for precision in ("single", "double") for what in MEASURED]
    print(f"| network | code | {' | '.join(columns)} |")
    print("| --- | --- |" + " ---: |" * len(columns))
    for file in OBJECTIVE:
        notes = Authors(file).notes
        code = f"{notes['repository'].removeprefix('https://github.com/')} @ {notes['commit'][:7]}"
        found = [*apart(file)]
        with double():
            found += apart(file)
        print(f"| {file} | {code} | {' | '.join(f'{x:.0e}' if x else '0' for x in found)} |")


if __name__ == "__main__":
    main()
