"""How the corpus commands look on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from mmerc.corpora.checking import NO_GROUP, Problem, check, class_counts, group_names, groups
from mmerc.corpus import Corpus
from mmerc.system import quoted

if TYPE_CHECKING:
    from mmerc.extraction.doctor import Examination

SHOWN = 50
LONGEST = 300  # characters of a message, unless everything is asked for


def print_import(out: Console, corpus: Corpus, next_command: bool = True) -> None:
    """Print what was imported, how it was understood, and the command to go on with."""
    dialogues = len(corpus.dialogue_ids)
    out.print(f"{corpus.path}: {len(corpus)} utterances in {dialogues} dialogues", style="bold")
    sizes = _sizes(corpus)
    parts = [f"{group} {row['dialogues']}/{row['utterances']}" for group, row in sizes.iloc[:-1].iterrows()]
    out.print(f"  dialogues/utterances: {', '.join(parts)}", soft_wrap=True)
    out.print(f"  labels: {', '.join(corpus.labels) or 'none'}", soft_wrap=True)
    for name in corpus.modalities:
        out.print(f"  {_width(corpus, name)}")
    for line in _told(corpus.manifest.provenance):
        out.print(f"  {line}", soft_wrap=True)
    problems = check(corpus)
    out.print(f"  check: {count_problems(problems)}")
    if next_command:
        out.print(f"next: {_next_command(corpus, problems)}", style="bold", soft_wrap=True)


def print_added(out: Console, corpus: Corpus, name: str) -> None:
    """Print what a new modality is, and the command to go on with."""
    recipe = ", ".join(f"{key} {_short(value)}" for key, value in corpus.modalities[name].recipe.items())
    out.print(f"{corpus.path}: {_width(corpus, name)}", style="bold")
    out.print(f"  {recipe}", soft_wrap=True)
    out.print(f"next: {_next_command(corpus, check(corpus))}", style="bold", soft_wrap=True)


def print_extracted(out: Console, corpus: Corpus, absent: pd.DataFrame) -> None:
    """Print what was extracted, why some of it is absent, and the command to go on with."""
    table = _table("modality", "recipe", "width", "present", right=(2, 3))
    for name, modality in corpus.modalities.items():
        share = corpus.features(name)[1].float().mean().item()
        recipe = modality.recipe
        which = "/".join(str(recipe[key]) for key in ("kind", "feature_set", "encoder") if key in recipe)
        table.add_row(name, which, str(modality.width), f"{share:.1%}")
    out.print(f"{corpus.path}: {len(corpus)} utterances", style="bold")
    out.print(table)
    for (lacking, reason), rows in absent.groupby(["modality", "reason"], sort=False):
        first = rows.iloc[0]
        where = f"first: {first['dialogue_id']}, utterance {first['utterance_index']}"
        out.print(f"  no {lacking} for {len(rows)}: {reason} ({where})", soft_wrap=True)
    if len(absent):
        out.print(f"  all of them: {corpus.path / 'absent.csv'}", soft_wrap=True)
    out.print(f"next: {_next_command(corpus, check(corpus))}", style="bold", soft_wrap=True)


def print_corpus(out: Console, corpus: Corpus) -> None:
    """Print what a corpus holds: labels, modalities with their recipes, sizes per split or fold."""
    out.print(f"{corpus.name} ({corpus.path})", style="bold")
    out.print(f"labels: {', '.join(corpus.labels) or 'none'}")
    if corpus.modalities:
        out.print(_modalities(corpus))
    else:
        out.print("modalities: none yet (`mmerc corpus encode-text` makes the text's)")
    sizes = _sizes(corpus)
    table = _table("", *sizes.columns, right=range(1, 1 + len(sizes.columns)))
    for group, row in sizes.iterrows():
        table.add_row(str(group), *map(str, row))
    out.print(table)


def print_dialogue(out: Console, corpus: Corpus, dialogue: int) -> None:
    """Print one conversation, and which modalities an utterance lacks."""
    start, stop = corpus.offsets[dialogue], corpus.offsets[dialogue + 1]
    rows = corpus.utterances.iloc[start:stop]
    present = {m: corpus.features(m)[1][start:stop].tolist() for m in corpus.modalities}
    group = groups(corpus).iloc[start] or NO_GROUP
    out.print(f"{corpus.dialogue_ids[dialogue]} ({group}), {stop - start} utterances", style="bold")
    table = _table("index", "time", "speaker", "label", "text", "missing", right=(0, 1))
    for position, (_, row) in enumerate(rows.iterrows()):
        missing = ", ".join(m for m, flags in present.items() if not flags[position])
        spoken = ("" if pd.isna(row[field]) else str(row[field]) for field in ("speaker", "label", "text"))
        table.add_row(str(row["utterance_index"]), _clock(row["start_ms"]), *spoken, missing)
    out.print(table)


def print_problems(out: Console, problems: Sequence[Problem], everything: bool) -> None:
    """Print problems as a table; unless `everything` is asked for, the first ones, shortened."""
    shown = problems if everything else problems[:SHOWN]
    table = _table("", "row", "field", "problem", right=(1,))
    for problem in shown:
        message = problem.message
        if not everything and len(message) > LONGEST:
            message = message[:LONGEST] + " …"
        style = "red" if problem.severity == "error" else "yellow"
        row = "" if problem.row is None else str(problem.row)
        table.add_row(problem.severity, row, problem.field, message, style=style)
    if shown:
        out.print(table)
    if len(problems) > len(shown):
        out.print(f"… and {len(problems) - len(shown)} more: --all shows everything")


def print_media(out: Console, corpus: Corpus, examined: "Examination") -> None:
    """Print how many utterances every kind of finding is about, and in how many of them a face is seen."""
    counts = _table("media", "severity", "utterances", right=(2,))
    kinds = dict.fromkeys((finding.kind, finding.severity) for finding in examined.problems)
    for kind, severity in kinds:
        rows = {row for finding in examined.problems if finding.kind == kind for row in finding.rows}
        style = "red" if severity == "error" else "yellow"
        counts.add_row(kind, severity, str(len(rows)), style=style)
    healthy = sum(not kinds for kinds in examined.table["findings"])
    counts.add_row("nothing found", "", str(healthy))
    out.print(counts)
    if examined.table["pictures"].notna().any():
        out.print(_faces(corpus, examined.table))


def _faces(corpus: Corpus, measured: pd.DataFrame) -> Table:
    table = _table(
        "faces", "utterances", "with pictures", "with a face", "faces", "height", right=range(1, 6)
    )
    for group in [*group_names(corpus), NO_GROUP]:
        rows = measured[measured["group"] == group]
        seen = rows[rows["pictures"].notna()]
        faced = seen[seen["with_face"] > 0]
        if len(rows):
            share = f"{len(faced) / len(seen):.1%}" if len(seen) else ""
            faces = f"{seen['faces'].mean():.2f}" if len(seen) else ""
            height = f"{faced['face_height'].median():.0%}" if len(faced) else ""
            table.add_row(group, str(len(rows)), str(len(seen)), share, faces, height)
    return table


def print_class_counts(out: Console, corpus: Corpus) -> None:
    """Print how many utterances of each class every split or fold has."""
    counts = class_counts(corpus)
    table = _table("utterances", *counts.columns, "all", right=range(1, len(counts.columns) + 2))
    for group, row in counts.iterrows():
        table.add_row(str(group), *map(str, row), str(row.sum()))
    out.print(table)


def count_problems(problems: Sequence[Problem]) -> str:
    """Return `2 errors, 1 warning`."""
    errors = sum(p.severity == "error" for p in problems)
    warnings = len(problems) - errors
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"


def _table(*headers: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, header in enumerate(headers):
        table.add_column(header, justify="right" if position in right else "left", overflow="fold")
    return table


def _width(corpus: Corpus, name: str) -> str:
    share = corpus.features(name)[1].float().mean().item()
    return f"{name}: {corpus.modalities[name].width} features, present in {share:.1%} of the utterances"


def _sizes(corpus: Corpus) -> pd.DataFrame:
    # One row per split or fold, and one over all of them at the end.
    group = groups(corpus).fillna(NO_GROUP)
    names = [*group_names(corpus), *([NO_GROUP] if (group == NO_GROUP).any() else [])]
    sizes = {name: _size(corpus.utterances[group == name]) for name in names}
    return pd.DataFrame.from_dict({**sizes, "all": _size(corpus.utterances)}, orient="index")


def _size(rows: pd.DataFrame) -> dict[str, Any]:
    lengths = rows.groupby("dialogue_id").size()
    return {
        "dialogues": len(lengths),
        "utterances": len(rows),
        "speakers": rows["speaker"].nunique(),
        "length: shortest": lengths.min(),
        "median": f"{lengths.median():g}",
        "longest": lengths.max(),
    }


def _told(provenance: dict[str, Any]) -> list[str]:
    # An importer's notes are sentences for people; one without any has recorded little enough to show.
    if "notes" in provenance:
        return [str(note) for note in provenance["notes"]]
    return [f"{key}: {_short(value)}" for key, value in provenance.items()]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_short(v)}" for key, v in value.items() if key != "sha256")
    if isinstance(value, list):
        return f"{', '.join(_short(v) for v in value[:8])}{f' … ({len(value)})' * (len(value) > 8)}"
    text = str(value)
    return text[:12] + "…" if len(text) == 64 and " " not in text else text  # a hash


def _modalities(corpus: Corpus) -> Table:
    table = _table("modality", "width", "present", "recipe", right=(1, 2))
    for name, modality in corpus.modalities.items():
        share = corpus.features(name)[1].float().mean().item()
        recipe = ", ".join(f"{key} {_short(value)}" for key, value in modality.recipe.items())
        table.add_row(name, str(modality.width), f"{share:.1%}", recipe)
    return table


def _next_command(corpus: Corpus, problems: Sequence[Problem]) -> str:
    folder = quoted(str(corpus.path))
    if not corpus.labels:
        return f"mmerc corpus show {folder}"
    if any(p.severity == "error" for p in problems):
        return f"mmerc corpus check {folder}"
    if "text" not in corpus.modalities and corpus.utterances["text"].fillna("").str.strip().any():
        return f"mmerc corpus encode-text {folder}"
    run = quoted(f"runs/{corpus.name}")
    folds = " --cross-validate" if corpus.folds and corpus.utterances["split"].isna().all() else ""
    return f"mmerc train df-erc --corpus {folder}{folds} --out {run}"


def _clock(milliseconds: Any) -> str:
    if pd.isna(milliseconds):
        return ""
    minutes, rest = divmod(int(milliseconds), 60_000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest / 1000:06.3f}"
