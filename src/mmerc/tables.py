"""A table of text before it becomes Markdown, LaTeX, CSV or a table in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

# What pdfLaTeX does not print as it stands; the end of a row would take [ and * at the next one's start.
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " ",
        **{character: f"\\{character}" for character in "%&_#${}"}, **{c: f"${c}$" for c in "<>|"},
        "[": "{[}", "*": "{*}",
        "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$",
        "≤": r"$\le$", "≥": r"$\ge$", "→": r"$\to$", "↓": r"$\downarrow$", "²": "$^2$", "⁶": "$^6$",
        "Δ": r"$\Delta$", "α": r"$\alpha$", "β": r"$\beta$", "ρ": r"$\rho$", "σ": r"$\sigma$",
        "ψ": r"$\psi$", "ω": r"$\omega$",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A title, a header, and rows of cells; every cell is text that is ready to be read."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    named: bool = True  # the first column names the rows
    notes: Sequence[str] = ()  # what a reader has to know, a sentence each

    def markdown(self) -> str:
        """Return a Markdown table with the title above and the notes below."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"

        rule = line(["---" if self.named else "---:", *["---:"] * (len(self.header) - 1)])
        table = "\n".join([line(self.header), rule, *map(line, self.rows)])
        return "\n\n".join([f"**{self.title}**", table, *self.notes])

    def latex(self) -> str:
        """Return a LaTeX `table` in the style of booktabs; the notes stand in the caption."""

        def line(cells: Sequence[str]) -> str:
            return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\"

        columns = ("l" if self.named else "r") + "r" * (len(self.header) - 1)
        caption = " ".join([f"{self.title.rstrip('.')}.", *self.notes]).translate(LATEX)
        lines = [
            r"\begin{table}", r"\centering", f"\\caption{{{caption}}}", f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule", line(self.header), r"\midrule", *map(line, self.rows), r"\bottomrule",
            r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def terminal(self) -> Table:
        """Return a table for the terminal."""
        caption = Text("\n".join(self.notes)) if self.notes else None
        table = Table(
            title=Text(self.title),
            title_justify="left",
            caption=caption,
            caption_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for position, name in enumerate(self.header):
            names_rows = position == 0 and self.named
            table.add_column(Text(name), justify="left" if names_rows else "right", no_wrap=names_rows)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table
