"""`mmerc extract`: from clips or recordings to a corpus folder with features."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmerc.cli.corpus import add_text, pairs, require_free
from mmerc.cli.measuring import CacheFile, Engines, Jobs, metering
from mmerc.cli.outputs import output_folder
from mmerc.cli.terminal import load_torch, results, resumable
from mmerc.errors import CorpusError

if TYPE_CHECKING:
    from mmerc.corpora.label_maps import LabelMap
    from mmerc.corpus import Corpus
    from mmerc.features.extractors import Chosen

log = logging.getLogger(__name__)

NONE = "none"


Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="MELD.Raw, IEMOCAP_full_release, a folder of clips with a table, one of recordings with "
        "transcripts, one recording, or a corpus folder that was extracted before.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        callback=output_folder,
        help="The corpus folder to write, or to go on with.",
    ),
]
Transcript = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Who says what when in a recording; for MELD: the folder of its *_sent_emo.csv."
    ),
]
Table = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The table of a folder of clips, if there are several.")
]
Audio = Annotated[
    str, typer.Option(metavar="RECIPE", help="`prosody`, `opensmile/SET` (IS10, eGeMAPSv02, …), or `none`.")
]
Visual = Annotated[
    str,
    typer.Option(metavar="RECIPE", help="`face-hog`, `densenet-ferplus:WEIGHTS`, `onnx:MODEL`, or `none`."),
]
Text = Annotated[
    str, typer.Option(metavar="ENCODER", help="`minilm`, a folder, a model on the hub, or `none`.")
]
FaceDetector = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A face detector; by default OpenCV's cascade.")
]
Labels = Annotated[str | None, typer.Option(metavar="A,B,C", help="Label names in class order.")]
MapName = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="meld-7, meld-3, iemocap-6, iemocap-4, or a YAML {old: new}."),
]
Columns = Annotated[
    list[str] | None, typer.Option(metavar="FIELD=COLUMN", help="Which column holds a field. Repeatable.")
]
Validation = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="Turn so many training dialogues of a table into the validation split."
    ),
]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the corpus; by default that of the folder.")
]
MediaRoot = Annotated[
    Path | None,
    typer.Option("--media-root", metavar="DIR", help="Where the media of a corpus are, if they were moved."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Import again over a corpus; replace features of other recipes.")
]


def extract(
    source: Source,
    out: Out = None,
    transcript: Transcript = None,
    table: Table = None,
    audio: Audio = "prosody",
    visual: Visual = "face-hog",
    text: Text = "minilm",
    face_detector: FaceDetector = None,
    labels: Labels = None,
    label_map: MapName = None,
    column: Columns = None,
    validation: Validation = 0,
    name: Name = None,
    media: MediaRoot = None,
    jobs: Jobs = None,
    engine: Engines = "processes",
    cache: CacheFile = None,
    force: Force = False,
) -> None:
    """Turn recordings and transcripts into a corpus with features.

    Features of sound, pictures and text, in one command. What was measured before is taken from the cache, so
    that an extraction that was cut goes on where it stopped. A file that cannot be read stops nothing:
    `absent.csv` in the corpus names it, and why.
    """
    load_torch()
    import pandas as pd

    from mmerc.cli import corpus_tables
    from mmerc.corpora.label_maps import read_label_map
    from mmerc.extraction.extract import ABSENT
    from mmerc.extraction.extract import extract as measure

    chosen = _chosen(audio, visual, face_detector)
    corpus = _there(source, out, force)
    if corpus is None:
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
    _require_same_recipes(corpus, chosen, force)
    if chosen:
        with metering(jobs, engine, cache) as meter:
            corpus = measure(corpus, chosen, meter, media)
    if text != NONE and _has_text(corpus):
        with resumable():
            corpus = _with_text(corpus, text, force)
    absent = pd.read_csv(corpus.path / ABSENT) if chosen else pd.DataFrame(columns=["modality", "reason"])
    corpus_tables.print_extracted(results(), corpus, absent)


def _chosen(audio: str, visual: str, face_detector: Path | None) -> "dict[str, Chosen]":
    """Make the extractors, and tell a licence where one is chosen."""
    from mmerc.features.extractors import choose

    chosen = {}
    if audio != NONE:
        chosen["audio"] = choose(audio, "audio")
    if visual != NONE:
        chosen["visual"] = choose(visual, "visual", face_detector)
    if audio.startswith("opensmile"):
        from mmerc.features.opensmile import LICENCE

        log.warning("%s", LICENCE)
    return chosen


def _there(source: Path, out: Path | None, force: bool) -> "Corpus | None":
    """Return the corpus to go on with, if there is one: `source` itself, or what is at `out`."""
    from mmerc.corpus import Corpus

    if (source / "corpus.json").exists():
        if out is not None and out.resolve() != source.resolve():
            raise CorpusError(f"{source} is a corpus: its features are added to it, without --out")
        return Corpus.open(source)
    if out is None or force or not (out / "corpus.json").exists():
        return None
    corpus = Corpus.open(out)
    root = Path(str(corpus.manifest.provenance.get("media_root", "")))
    files = {root / str(file) for file in corpus.utterances["media"].dropna().unique()}
    if source.resolve() not in {root, *files}:
        raise CorpusError(
            f"{out} holds a corpus of {root}, not of {source}: choose another --out, or --force"
        )
    log.info("%s is there: going on with it (--force imports %s again)", out, source)
    return corpus


def _imported(
    source: Path,
    out: Path | None,
    *,
    transcript: Path | None,
    table: Path | None,
    columns: dict[str, str],
    labels: Sequence[str] | None,
    label_map: "LabelMap | None",
    validation: int,
    name: str | None,
) -> "Corpus":
    """Import what lies at `source`, in whichever layout, and say what was found."""
    from mmerc.cli import corpus_tables
    from mmerc.corpora.clips import import_clips
    from mmerc.corpora.iemocap import import_iemocap, is_iemocap
    from mmerc.corpora.meld_raw import import_meld_raw, is_meld_raw
    from mmerc.corpora.recording import import_recordings

    if out is None:
        raise CorpusError("say where to write the corpus: --out DIR")
    require_free(out, True, source)
    if not source.exists():
        raise CorpusError(f"{source} does not exist")
    if not source.is_dir():
        if transcript is None:
            raise CorpusError(f"{source} needs a transcript: --transcript FILE (see docs/own-video.md)")
        pair = (source, transcript)
        corpus = import_recordings([pair], out, labels=labels, label_map=label_map, name=name)
    elif is_meld_raw(source):
        corpus = import_meld_raw(source, out, transcripts=transcript, label_map=label_map)
    elif is_iemocap(source):
        corpus = import_iemocap(source, out, label_map=label_map)
    else:
        corpus = import_clips(
            source,
            out,
            table=table,
            columns=columns,
            labels=labels,
            label_map=label_map,
            name=name,
            validation=validation,
        )
    corpus_tables.print_import(results(), corpus, next_command=False)
    return corpus


def _require_same_recipes(corpus: "Corpus", chosen: "dict[str, Chosen]", force: bool) -> None:
    for modality, one in chosen.items():
        there = corpus.modalities.get(modality)
        if there is not None and there.recipe != one.extractor.recipe and not force:
            raise CorpusError(
                f"{corpus.path} has {modality!r} features of the recipe {there.recipe}, asked for is "
                f"{one.extractor.recipe}: --force replaces them, --{modality} none leaves them"
            )


def _has_text(corpus: "Corpus") -> bool:
    return bool(corpus.utterances["text"].fillna("").str.strip().any())


def _with_text(corpus: "Corpus", encoder: str, force: bool) -> "Corpus":
    """Add the vectors of a text encoder, unless they are there."""
    from mmerc.features.frozen import frozen_encoder

    loaded = frozen_encoder(encoder)
    there = corpus.modalities.get("text")
    if there is not None and there.recipe == loaded.recipe:
        return corpus
    if there is not None and not force:
        raise CorpusError(
            f"{corpus.path} has 'text' features of the recipe {there.recipe}: --force replaces them, "
            "--text none leaves them"
        )
    return add_text(corpus, loaded)
