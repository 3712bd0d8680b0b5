"""Put tables that commands wrote into a page, between marks that name their files.

    python benchmarks/fill_results.py docs/results.md runs/results

A mark is a line `<!-- table: benchmark/meld/benchmark.md -->`, the path below the folder of the runs; what
follows it up to the next `<!-- end -->` is replaced by that file.
"""

import re
import sys
from pathlib import Path

MARK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def fill(page: str, runs: Path) -> tuple[str, list[Path]]:
    """Return the page with its tables, and the files that it names but that do not exist."""
    missing = []

    def table(match: re.Match[str]) -> str:
        file = runs / match[2]
        if not file.exists():
            missing.append(file)
            return match[0]
        return f"{match[1]}\n{file.read_text(encoding='utf-8').strip()}\n\n{match[3]}"

    return MARK.sub(table, page), missing


def main() -> None:
    """Fill the page in place."""
    path, runs = Path(sys.argv[1]), Path(sys.argv[2])
    page, missing = fill(path.read_text(encoding="utf-8"), runs)
    path.write_text(page, encoding="utf-8")
    for file in missing:
        print(f"left as it was, there is no {file}")


if __name__ == "__main__":
    main()
