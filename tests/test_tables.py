import re

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mmerc.tables import LATEX, Grid

GRID = Grid(
    "Scores of df_erc, 100 %.",
    ["", "wF1", "Δ", "10⁶ weights"],
    [["df-erc & co", "61.20 ± 0.31", "ref.", "1.2"], ["text_only | b", "59.00", "−2.20†‡", "0.4"]],
    notes=["First note.", "p < 0.05 in #2."],
)
# What a name of a corpus, a label or a setting may hold.
TEXT = st.text(st.sampled_from("aZ0é %&_#${}\\~^|<>[]*±−†Δ⁶,.=:/'\"-"), max_size=8).map(str.strip)
GRIDS = st.integers(1, 4).flatmap(
    lambda width: st.builds(
        Grid,
        title=TEXT,
        header=st.lists(TEXT, min_size=width, max_size=width),
        rows=st.lists(st.lists(TEXT, min_size=width, max_size=width), max_size=4),
        named=st.booleans(),
        notes=st.lists(TEXT, max_size=2),
    )
)
READ = {latex: chr(symbol) for symbol, latex in LATEX.items() if chr(symbol) != "\n"}


def rendered(grid: Grid) -> str:
    console = Console(width=500, file=None, color_system=None)
    with console.capture() as capture:
        console.print(grid.terminal())
    return capture.get()


def read(latex: str) -> str:
    """Undo the escapes."""
    pattern = "|".join(re.escape(code) for code in sorted(READ, key=len, reverse=True))
    return re.sub(pattern, lambda found: READ[found[0]], latex)


def latex_cells(latex: str) -> list[list[str]]:
    body = latex.split("\\toprule\n")[1].split("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if line != r"\midrule"]
    return [[read(cell) for cell in line.removesuffix(r" \\").split(" & ")] for line in lines]


def test_markdown() -> None:
    assert GRID.markdown() == (
        "**Scores of df_erc, 100 %.**\n\n"
        "|  | wF1 | Δ | 10⁶ weights |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| df-erc & co | 61.20 ± 0.31 | ref. | 1.2 |\n"
        "| text_only \\| b | 59.00 | −2.20†‡ | 0.4 |\n\n"
        "First note.\n\np < 0.05 in #2."
    )
    assert "\n| ---: | ---: |\n" in Grid("t", ["a", "b"], [["1", "2"]], named=False).markdown()
    assert "| two lines |" in Grid("t", ["a"], [["two\nlines"]]).markdown()


def test_latex() -> None:
    assert GRID.latex() == (
        "\\begin{table}\n\\centering\n"
        "\\caption{Scores of df\\_erc, 100 \\%. First note. p $<$ 0.05 in \\#2.}\n"
        "\\begin{tabular}{lrrr}\n\\toprule\n"
        " & wF1 & $\\Delta$ & 10$^6$ weights \\\\\n\\midrule\n"
        "df-erc \\& co & 61.20 $\\pm$ 0.31 & ref. & 1.2 \\\\\n"
        "text\\_only $|$ b & 59.00 & $-$2.20$\\dagger$$\\ddagger$ & 0.4 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )
    assert "{tabular}{rr}" in Grid("t", ["a", "b"], [], named=False).latex()


@given(GRIDS)
def test_latex_is_well_formed(grid: Grid) -> None:
    text = grid.latex()
    assert re.findall(r"\\begin{(\w+)}", text) == ["table", "tabular"]
    assert re.findall(r"\\end{(\w+)}", text) == ["tabular", "table"]
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(f"\n{rule}\n") == 1
    bare = re.sub(r"\\[{}$%&_#\\]", "", text.replace(r"\textbackslash", ""))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search("[%_#|<>±−†Δ⁶]", re.sub(r"\$[^$]*\$", "", bare))
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert not any(row.startswith(("[", "*")) for row in rows)
    assert latex_cells(text) == [list(grid.header), *map(list, grid.rows)]


@given(GRIDS)
def test_every_cell_is_in_the_markdown(grid: Grid) -> None:
    lines = grid.markdown().splitlines()[2 : 4 + len(grid.rows)]  # the title above, the notes below
    cells = [[cell.strip().replace(r"\|", "|") for cell in re.split(r" \| ", line[2:-2])] for line in lines]
    del cells[1]
    assert cells == [list(grid.header), *map(list, grid.rows)]


@settings(max_examples=40)
@given(GRIDS)
def test_every_cell_is_in_the_terminal(grid: Grid) -> None:
    text = "".join(rendered(grid).split())  # a long title is wrapped
    for part in (grid.title, *grid.notes, *grid.header, *(cell for row in grid.rows for cell in row)):
        assert "".join(part.split()) in text
