"""`mmerc models`: which models there are, and what their settings mean."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mmerc.cli.terminal import load_torch, results

if TYPE_CHECKING:
    from mmerc.models.describe import Card

app = typer.Typer()


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models, or explain the settings of one."""
    if context.invoked_subcommand is not None:
        if as_json:
            raise typer.BadParameter("the list is printed as JSON, a config is YAML", param_hint="--json")
        return
    load_torch()
    from mmerc.models import MODELS
    from mmerc.models.describe import MELD_CLASSES, MELD_WIDTHS, card
    from mmerc.shipped import SHIPPED, located

    cards = [card(name) for name in MODELS]
    if as_json:
        listed = [c._asdict() | {"paper": c.paper and c.paper._asdict()} for c in cards]
        shape = {"widths": MELD_WIDTHS, "classes": MELD_CLASSES}
        typer.echo(json.dumps({"parameters_at": shape, "models": listed}, indent=2, ensure_ascii=False))
        return
    widths = ", ".join(f"{name} {width}" for name, width in MELD_WIDTHS.items())
    console = results()
    console.print(_table(cards))
    console.print(
        f"parameters: of the first preset, the default, at MELD's shape ({widths}, {MELD_CLASSES} classes)\n"
        "presets: the first is the default; …-meld and …-iemocap are for the labels of that corpus\n"
        "causal: whether --set network.causal=true hides later utterances from it; always: it never looks\n"
        "next: mmerc models show NAME > my.yaml  (every setting, explained)\n"
        "\ntrained, in the box, each with its card:\n"
        + "\n".join(f"  {name}: {about} ({located(name) / 'README.md'})" for name, about in SHIPPED.items()),
        soft_wrap=True,
    )


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="NAME", help="A model, as `mmerc models` lists it.")],
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Preset of the model; its first one if not given.")
    ] = None,
) -> None:
    """Print the config of a model, every key explained.

    It is YAML for `mmerc train --config`.
    """
    load_torch()
    from mmerc.models.describe import config_file

    typer.echo(config_file(model, preset), nl=False)


def _table(cards: "list[Card]") -> Table:
    table = Table("model", "paper", "parameters", "reads", "presets", "causal", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for card in cards:
        paper = (
            f"{card.paper.name}, {card.paper.venue} {card.paper.year}" if card.paper else "none: a baseline"
        )
        reads = ", ".join(card.modalities) if card.modalities else "any"
        table.add_row(card.name, paper, f"{card.parameters:,}", reads, ", ".join(card.presets), card.causal)
    return table
