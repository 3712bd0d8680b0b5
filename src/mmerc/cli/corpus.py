"""`mmerc corpus`: bring conversations and their features into a corpus folder, look at it, check it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmerc.cli.common import Device
from mmerc.cli.measuring import CacheFile, Engines, Jobs, metering
from mmerc.cli.outputs import output_folder
from mmerc.cli.progress import progress
from mmerc.cli.terminal import load_torch, results
from mmerc.errors import CorpusError

if TYPE_CHECKING:  # the commands import what they need, so that `mmerc --help` stays fast
    from mmerc.corpora.checking import Problem
    from mmerc.corpus import Corpus
    from mmerc.extraction.doctor import Examination
    from mmerc.features.text import TextEncoder

app = typer.Typer(help="Import, show and check a corpus.", no_args_is_help=True)
imports = typer.Typer(help="Import a corpus from one of several sources.", no_args_is_help=True)
app.add_typer(imports, name="import")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A corpus folder.")]
Out = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", callback=output_folder, help="The corpus folder to write."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a corpus that is there.")]


@imports.command("meld")
def import_meld(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with train|dev|test_sent_emo.csv.")],
    out: Out,
    force: Force = False,
) -> None:
    """Import the transcripts of MELD."""
    load_torch()
    from mmerc.corpora import meld

    require_free(out, force, source)
    _tell(meld.import_meld(source, out))


@imports.command("table")
def import_table(
    utterances: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV, TSV or JSON lines, one record per utterance.")
    ],
    out: Out,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=FILE",
            help="A .npy, .npz, .safetensors or .parquet file with one row per utterance. Repeatable.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Which column holds a field: dialogue_id, utterance_index, speaker, text, start_ms, end_ms, "
            "label, split, fold, media. By default the one of the same name. Repeatable.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="Label names in class order; by default those that occur, sorted."
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY=ARRAY", help="Which array of a file to take. Repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the corpus; by default that of the folder.")
    ] = None,
    validation: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Turn so many training dialogues into the validation split."),
    ] = 0,
    force: Force = False,
) -> None:
    """Import a table of utterances, and features that are ready."""
    load_torch()
    from mmerc.corpora import table

    files = {modality: Path(file) for modality, file in pairs(features, "--features").items()}
    require_free(out, force, utterances, *files.values())
    corpus = table.import_table(
        utterances,
        files,
        out,
        columns=pairs(column, "--column"),
        labels=None if labels is None else [label.strip() for label in labels.split(",")],
        name=name,
        validation=validation,
        keys=pairs(key, "--key"),
    )
    _tell(corpus)


@imports.command("pickle")
def import_pickle(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="FILE [FILE]", help="A feature pickle, or two of one corpus to be joined."),
    ],
    out: Out,
    text: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Which text features become the modality `text`: `text_1` to `text_4`."
        ),
    ] = "text_1",
    meld_csv: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Compare the sentences with MELD's `*_sent_emo.csv` in this folder."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Import feature pickles of other repositories.

    Those of MMGCN, MM-DFN, SDT, CFN-ESA and COSMIC; nothing in them is run.
    """
    load_torch()
    from mmerc.corpora import peer_pickles

    require_free(out, force, *sources)
    _tell(peer_pickles.import_pickle(sources, out, text=text, meld_csv=meld_csv))


@imports.command("scripted")
def import_scripted(
    out: Out,
    seed: Annotated[int, typer.Option(metavar="N", help="What the corpus is drawn from.")] = 0,
    dialogues: Annotated[int, typer.Option(metavar="N", help="Number of dialogues.")] = 240,
    force: Force = False,
) -> None:
    """Generate the corpus whose every mechanism is known."""
    load_torch()
    from mmerc.corpora import scripted

    require_free(out, force)
    _tell(scripted.generate(out, seed=seed, dialogues=dialogues))


@app.command()
def show(
    folder: Folder,
    dialogue: Annotated[str | None, typer.Option(metavar="ID", help="Print this conversation.")] = None,
) -> None:
    """Show what a corpus holds, or one of its conversations."""
    load_torch()
    from mmerc.cli import corpus_tables
    from mmerc.corpora.records import nearest
    from mmerc.corpus import Corpus

    corpus = Corpus.open(folder)
    console = results()
    if dialogue is None:
        corpus_tables.print_corpus(console, corpus)
        return
    if dialogue not in corpus.dialogue_ids:
        near = nearest(dialogue, corpus.dialogue_ids)
        raise CorpusError(
            f"{folder} has no dialogue {dialogue!r}{near}; the first is {corpus.dialogue_ids[0]!r}"
        )
    corpus_tables.print_dialogue(console, corpus, corpus.dialogue_ids.index(dialogue))


@app.command()
def check(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show every problem in full.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare every file with its checksum, feature tables too.")
    ] = False,
    media: Annotated[
        bool, typer.Option("--media", help="Look at the sound and the pictures of every utterance as well.")
    ] = False,
    media_root: Annotated[
        Path | None,
        typer.Option(
            "--media-root", metavar="DIR", help="Where they are, if they were moved; implies --media."
        ),
    ] = None,
    jobs: Jobs = None,
    engine: Engines = "processes",
    cache: CacheFile = None,
) -> None:
    """List every problem of a corpus with its row and field.

    Exit code 1 when there are errors. Nothing is changed. With --media, files are listed that are missing,
    corrupt, silent, clipped, of another length or with other words than the transcript says, and utterances
    without a face (docs/media-check.md).
    """
    load_torch()
    from mmerc.cli import corpus_tables
    from mmerc.corpora import checking
    from mmerc.corpus import Corpus

    corpus = Corpus.open(folder)
    problems = checking.check(corpus, deep)
    examined = None
    if media or media_root is not None:
        from mmerc.extraction.doctor import examine

        with metering(jobs, engine, cache) as meter:
            examined = examine(corpus, meter, media_root)
        problems = sorted([*problems, *examined.problems], key=lambda problem: problem.severity)
    if as_json:
        typer.echo(json.dumps(_report(corpus, problems, examined), indent=2, ensure_ascii=False))
    else:
        console = results()
        if examined is not None:
            corpus_tables.print_media(console, corpus, examined)
        corpus_tables.print_problems(console, problems, everything)
        corpus_tables.print_class_counts(console, corpus)
        console.print(f"{folder}: {corpus_tables.count_problems(problems)}", style="bold", soft_wrap=True)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)


def _report(
    corpus: "Corpus", problems: "Sequence[Problem]", examined: "Examination | None"
) -> dict[str, object]:
    from dataclasses import asdict

    from mmerc.corpora.checking import class_counts

    counts = {str(group): row for group, row in class_counts(corpus).to_dict(orient="index").items()}
    report: dict[str, object] = {
        "corpus": str(corpus.path),
        "problems": [asdict(problem) for problem in problems],
        "class_counts": counts,
    }
    if examined is not None:
        report["media"] = json.loads(examined.table.to_json(orient="records"))
    return report


@app.command()
def seal(folder: Folder) -> None:
    """Write new checksums after a change on purpose."""
    from mmerc import manifest
    from mmerc.corpus import Corpus

    sealed = manifest.seal(folder)
    Corpus.open(folder)
    typer.echo(f"{folder}: checksums of {len(sealed.files)} files written")


Encoder = Annotated[
    str,
    typer.Option(
        metavar="ENCODER",
        help="`minilm` (embedded), a folder, or a model's name on the Hugging Face hub.",
    ),
]
ModalityName = Annotated[str, typer.Option(metavar="NAME", help="Name of the modality to store.")]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="I,J,…", help="Hidden states to concatenate; the last one if not given, minilm: 2,4,6."
    ),
]
ScopeName = Annotated[
    Literal["dialogue", "utterance", "both"] | None,
    typer.Option(
        metavar="dialogue|utterance|both",
        help="Read an utterance in its dialogue (the paper's eq. 1), alone, or both; minilm: both.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Tokens that are read at once; by default all that the encoder can."
    ),
]
UtteranceLimit = Annotated[
    int, typer.Option(metavar="N", min=1, help="Tokens after which an utterance is cut.")
]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="Commit or branch on the hub.")]


@app.command("encode-text")
def encode_text(
    folder: Folder,
    encoder: Encoder = "minilm",
    name: ModalityName = "text",
    layers: Layers = None,
    scope: ScopeName = None,
    window: Window = None,
    utterance_limit: UtteranceLimit = 256,
    revision: Revision = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace a modality that is there.")] = False,
) -> None:
    """Compute text features with a frozen encoder.

    They are the mean over the tokens of each utterance. The paper's eq. 1 is `--scope dialogue` with the last
    layer. The embedded `minilm` does better with layers 2, 4 and 6, read in the dialogue and alone: its
    default.
    """
    load_torch()
    from mmerc.cli import corpus_tables
    from mmerc.corpora.arrays import require_modality_name
    from mmerc.corpus import Corpus
    from mmerc.features.frozen import frozen_encoder
    from mmerc.optimization import choose_device

    require_modality_name(name)
    corpus = Corpus.open(folder)
    if name in corpus.modalities and not force:
        raise CorpusError(f"{folder} has a modality {name!r} already: choose another --name, or --force")
    if not any(text.strip() for texts in corpus.texts for text in texts):
        raise CorpusError(f"{folder}: no utterance has a text to encode")
    loaded = frozen_encoder(
        encoder,
        layers=_numbers(layers),
        scope=scope,
        window=window,
        utterance_limit=utterance_limit,
        revision=revision,
    )
    loaded.to(choose_device(device))
    corpus = add_text(corpus, loaded, name)
    corpus_tables.print_added(results(), corpus, name)


def add_text(corpus: "Corpus", encoder: "TextEncoder", name: str = "text") -> "Corpus":
    """Add the vectors of a text encoder to a corpus, and show how far it is."""
    from mmerc.features.frozen import encode
    from mmerc.storage import exclusive

    with exclusive(corpus.path, CorpusError), progress() as begin:
        texts = begin(f"encoding with {encoder.recipe['encoder']}", len(corpus))
        return corpus.add_modality(name, encode(encoder, corpus.texts, texts.update))


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers like 2,4,6", param_hint="--layers"
        ) from None


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """Return what `--option NAME=VALUE`, given any number of times, says."""
    found: dict[str, str] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{item!r} is not of the form NAME=VALUE", param_hint=option)
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found


def require_free(out: Path, force: bool, *sources: Path) -> None:
    """Refuse, before any work, an output folder that is taken, or that holds what is to be read."""
    if (out / "corpus.json").exists() and not force:
        raise CorpusError(f"{out} holds a corpus already: choose another folder, or replace it with --force")
    for source in sources:
        if source.resolve().is_relative_to(out.resolve()):
            raise CorpusError(f"{source} lies inside {out}, which would be replaced: choose another folder")


def _tell(corpus: "Corpus") -> None:
    from mmerc.cli import corpus_tables

    corpus_tables.print_import(results(), corpus)
