"""Put what is known of published systems (src/mmerc/experiments/published.yaml) into docs/published.md.

    python benchmarks/published_page.py

What stands between a mark such as `<!-- made: counts -->` and the next `<!-- end -->` is replaced.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from mmerc.experiments.published import Corpus, Published, Score, System, published

PAGE: Final = Path(__file__).resolve().parents[1] / "docs/published.md"
MARK: Final = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
CORPORA: Final[dict[Corpus, str]] = {"meld": "MELD", "iemocap": "IEMOCAP-6", "iemocap-4": "IEMOCAP-4"}
HEADER: Final = [
    *("System", "Reported epoch", "Text encoder", "Inputs", "Runs averaged", "Gold labels"),
    *CORPORA.values(),
    "Code, licence",
]
SECTIONS: Final[dict[str, Callable[[System], bool]]] = {
    "Chosen on validation": lambda system: system.selection == "validation",
    "Several candidates printed": lambda system: system.selection == "unknown" and bool(system.evidence),
    "Chosen on test": lambda system: system.selection == "test",
    "No official code for these corpora": lambda system: not system.evidence,
}


def fill(page: str, content: Published) -> str:
    """Return the page with all that is made of `content`."""
    parts = {"counts": counts(content.systems), "systems": systems(content), "sources": sources(content)}
    return MARK.sub(lambda match: f"{match[1]}\n{parts[match[2]]}\n\n{match[3]}", page)


def counts(systems: Sequence[System]) -> str:
    """Count the systems by what their code does."""
    rules = [system.selection for system in systems if system.evidence]
    labels = [system.gold_labels for system in systems]
    return (
        f"Of {len(systems)} systems {len(rules)} have official code for MELD or IEMOCAP that can be read. "
        f"**{rules.count('test')} of these {len(rules)} report the epoch that is best on test**, "
        f"{rules.count('validation')} choose it on validation, and {rules.count('unknown')} print several "
        "candidates, or keep none, so that nobody can know which one was published. When they predict, "
        f"{labels.count('no')} read no label of another utterance and {labels.count('yes')} read some; of "
        "the rest it could not be seen."
    )


def systems(content: Published) -> str:
    """Return a table, and notes, for each rule; systems that read more than text come first."""
    numbers = {key: position for position, key in enumerate(content.sources, 1)}
    parts = []
    for title, belongs in SECTIONS.items():
        found = sorted(
            filter(belongs, content.systems), key=lambda s: ("audio" not in s.inputs, s.year, s.name)
        )
        rows = [HEADER, ["---"] * len(HEADER), *(row(system, numbers) for system in found)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        notes = "\n".join(f"* {system.name}: {system.note}" for system in found if system.note)
        parts.append(f"## {title}\n\n{table}\n\n{notes}".rstrip())
    return "\n\n".join(parts)


def sources(content: Published) -> str:
    """Return the numbered list of where the numbers stand."""
    texts = [
        f"[{source.text}]({source.url})" if source.url else source.text for source in content.sources.values()
    ]
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def row(system: System, numbers: Mapping[str, int]) -> list[str]:
    """Return the cells of a system; `numbers` are those of the sources."""
    scores = [[cell(score, numbers) for score in system.scores if score.corpus == name] for name in CORPORA]
    return [
        f"{system.name} ({system.year})",
        " ".join([system.rule or "unknown", *(link(system, place) for place in system.evidence)]),
        system.text_encoder,
        system.inputs,
        system.seeds,
        system.gold_labels,
        *("<br>".join(found) or "–" for found in scores),
        code(system),
    ]


def cell(score: Score, numbers: Mapping[str, int]) -> str:
    """Return a score with all that has to be known of it."""
    accuracy = "–" if score.accuracy is None else f"{score.accuracy:.2f}"
    remarks = [
        "" if score.macro_f1 is None else f"macro F1 {score.macro_f1:.2f}",
        "" if score.kind == "own" else score.kind,
        score.what,
        {"validation": "chosen on validation", "unknown": "rule unknown"}.get(score.selection or "", ""),
    ]
    said = ", ".join(filter(None, remarks))
    return f"{score.weighted_f1:.2f} / {accuracy}{f' ({said})' if said else ''} [{numbers[score.source]}]"


def link(system: System, place: str) -> str:
    """Return a link to lines of a system's code, from `path:first-last`."""
    path, _, lines = place.partition(":")
    anchor = "-".join(f"L{number}" for number in lines.split("-"))
    return f"[{'/'.join(Path(path).parts[-2:])}:{lines}]({_address(system, 'blob')}/{path}#{anchor})"


def code(system: System) -> str:
    """Return a link to a system's code, with commit and licence."""
    if system.code is None:
        return "none"
    return (
        f"[{system.code.repository}]({_address(system, 'tree')}) {system.code.commit}, {system.code.licence}"
    )


def _address(system: System, kind: str) -> str:
    assert system.code is not None  # as there is evidence
    return f"https://github.com/{system.code.repository}/{kind}/{system.code.commit}"


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), published()), encoding="utf-8")
