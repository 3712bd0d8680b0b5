"""`mmerc extract`: from clips or recordings to a corpus folder with features."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmerc.cli.corpus import pairs, require_free
from mmerc.cli.measuring import CacheFile, Engines, Jobs, metering
from mmerc.errors import CorpusError

if TYPE_CHECKING:
    from mmerc.corpora.label_maps import LabelMap
    from mmerc.corpus import Corpus
    from mmerc.features.extractors import Chosen

NONE = "none"


def extract(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="MELD.Raw, IEMOCAP_full_release, a folder of clips with a table, one of recordings with "
            "transcripts, one recording, or a corpus folder that was extracted before.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The corpus folder to write, or to go on with."),
    ] = None,
    transcript: Annotated[
        Path | None,
        typer.Option(help="Who says what when in a recording; for MELD: the folder of its *_sent_emo.csv."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="The table of a folder of clips, if there are several.")
    ] = None,
    audio: Annotated[
        str,
        typer.Option(metavar="RECIPE", help="`prosody`, `opensmile/SET` (IS10, eGeMAPSv02, …), or `none`."),
    ] = "prosody",
    visual: Annotated[
        str,
        typer.Option(
            metavar="RECIPE", help="`face-hog`, `densenet-ferplus:WEIGHTS`, `onnx:MODEL`, or `none`."
        ),
    ] = "face-hog",
    text: Annotated[
        str, typer.Option(metavar="ENCODER", help="`minilm`, a folder, a model on the hub, or `none`.")
    ] = "minilm",
    face_detector: Annotated[
        Path | None, typer.Option(metavar="ONNX", help="A face detector; by default OpenCV's cascade.")
    ] = None,
    labels: Annotated[str | None, typer.Option(metavar="A,B,C", help="Label names in class order.")] = None,
    label_map: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="meld-7, meld-3, iemocap-6, iemocap-4, or a YAML {old: new}."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=COLUMN", help="Which column holds a field. Repeatable.")
    ] = None,
    validation: Annotated[
        int, typer.Option(min=0, help="Turn so many training dialogues of a table into the validation split.")
    ] = 0,
    name: Annotated[
        str | None, typer.Option(help="Name of the corpus; by default that of the folder.")
    ] = None,
    media: Annotated[
        Path | None,
        typer.Option(
            "--media-root", metavar="DIR", help="Where the media of a corpus are, if they were moved."
        ),
    ] = None,
    jobs: Jobs = None,
    engine: Engines = "processes",
    cache: CacheFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="Import again over a corpus; replace features of other recipes.")
    ] = False,
) -> None:
    """Extract features of sound, pictures and text: one command from raw media to a corpus.

    What was measured before is taken from the cache, so that an extraction that was cut goes on where it
    stopped. A file that cannot be read stops nothing: `absent.csv` in it says what is missing, and why.
    """
    import pandas as pd

    from mmerc.cli import corpus_tables
    from mmerc.corpora.label_maps import read_label_map
    from mmerc.corpus import Corpus
    from mmerc.extraction.extract import ABSENT
    from mmerc.extraction.extract import extract as measure
    from mmerc.features.extractors import choose

    console = corpus_tables.console()
    chosen: dict[str, Chosen] = {}
    if audio != NONE:
        chosen["audio"] = choose(audio, "audio")
    if visual != NONE:
        chosen["visual"] = choose(visual, "visual", face_detector)
    _tell_licence(audio)
    if (source / "corpus.json").exists():
        if out is not None and out.resolve() != source.resolve():
            raise CorpusError(f"{source} is a corpus: its features are added to it, without --out")
        corpus = Corpus.open(source)
    elif out is None:
        raise CorpusError("say where to write the corpus: --out DIR")
    elif (out / "corpus.json").exists() and not force:
        corpus = _going_on(Corpus.open(out), source)
        console.print(f"{out} is there: going on with it (--force imports {source} again)", soft_wrap=True)
    else:
        corpus = _imported(
            source,
            out,
            transcript=transcript,
            table=table,
            columns=pairs(column, "--column"),
            labels=None if labels is None else [label.strip() for label in labels.split(",")],
            label_map=None if label_map is None else read_label_map(label_map),
            validation=validation,
            name=name,
        )
        corpus_tables.print_import(console, corpus, next_command=False)
    _require_same_recipes(corpus, chosen, force)
    if chosen:
        with metering(jobs, engine, cache) as meter:
            corpus = measure(corpus, chosen, meter, media)
    if text != NONE and _has_text(corpus):
        corpus = _with_text(corpus, text, force)
    absent = pd.read_csv(corpus.path / ABSENT) if chosen else pd.DataFrame(columns=["modality", "reason"])
    corpus_tables.print_extracted(console, corpus, absent)


def _imported(
    source: Path,
    out: Path,
    *,
    transcript: Path | None,
    table: Path | None,
    columns: dict[str, str],
    labels: Sequence[str] | None,
    label_map: "LabelMap | None",
    validation: int,
    name: str | None,
) -> "Corpus":
    """Import what lies at `source`, in whichever layout."""
    from mmerc.corpora.clips import import_clips
    from mmerc.corpora.iemocap import import_iemocap, is_iemocap
    from mmerc.corpora.meld_raw import import_meld_raw, is_meld_raw
    from mmerc.corpora.recording import import_recordings

    require_free(out, True, source)
    if source.is_dir() and is_meld_raw(source):
        return import_meld_raw(source, out, transcripts=transcript, label_map=label_map)
    if source.is_dir() and is_iemocap(source):
        return import_iemocap(source, out, label_map=label_map)
    if source.is_dir():
        return import_clips(
            source,
            out,
            table=table,
            columns=columns,
            labels=labels,
            label_map=label_map,
            name=name,
            validation=validation,
        )
    if not source.exists():
        raise CorpusError(f"{source} does not exist")
    if transcript is None:
        raise CorpusError(f"{source} needs a transcript: --transcript FILE (see docs/own-video.md)")
    return import_recordings([(source, transcript)], out, labels=labels, label_map=label_map, name=name)


def _going_on(corpus: "Corpus", source: Path) -> "Corpus":
    """Refuse to go on with a corpus that came from somewhere else."""
    root = Path(str(corpus.manifest.provenance.get("media_root", "")))
    files = {root / str(file) for file in corpus.utterances["media"].dropna().unique()}
    if source.resolve() not in {root, *files}:
        raise CorpusError(
            f"{corpus.path} holds a corpus of {root}, not of {source}: choose another --out, or --force"
        )
    return corpus


def _require_same_recipes(corpus: "Corpus", chosen: "dict[str, Chosen]", force: bool) -> None:
    for modality, one in chosen.items():
        there = corpus.modalities.get(modality)
        if there is not None and there.recipe != one.extractor.recipe and not force:
            raise CorpusError(
                f"{corpus.path} has {modality!r} features of the recipe {there.recipe}, asked for is "
                f"{one.extractor.recipe}: --force replaces them, --{modality} none leaves them"
            )


def _tell_licence(audio: str) -> None:
    if audio.startswith("opensmile"):
        from mmerc.features.opensmile import LICENCE

        typer.echo(LICENCE, err=True)


def _has_text(corpus: "Corpus") -> bool:
    return bool(corpus.utterances["text"].fillna("").str.strip().any())


def _with_text(corpus: "Corpus", encoder: str, force: bool) -> "Corpus":
    """Add the vectors of a text encoder, unless they are there."""
    from mmerc.cli import corpus_tables
    from mmerc.features.frozen import encode, frozen_encoder
    from mmerc.storage import exclusive

    loaded = frozen_encoder(encoder)
    there = corpus.modalities.get("text")
    if there is not None and there.recipe == loaded.recipe:
        return corpus
    if there is not None and not force:
        raise CorpusError(
            f"{corpus.path} has 'text' features of the recipe {there.recipe}: --force replaces them, "
            "--text none leaves them"
        )
    progress = corpus_tables.progress(f"encoding with {encoder}", len(corpus))
    with exclusive(corpus.path, CorpusError), progress as advance:
        return corpus.add_modality("text", encode(loaded, corpus.texts, advance))
