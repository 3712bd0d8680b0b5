"""The manifest of a corpus folder, `corpus.json`, and the checksums in it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mmerc.errors import CorpusError
from mmerc.storage import atomic_path, exclusive, is_sealed, seal_text, sha256, write_text

FORMAT: Final = 1
NAME: Final = "corpus.json"


class Modality(BaseModel):
    """Width of a feature table and the recipe that made it (free-form, compared as a whole)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    width: int = Field(gt=0)
    recipe: dict[str, Any]


class Manifest(BaseModel):
    """Content of `corpus.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1]
    name: str
    labels: tuple[str, ...]  # none for a corpus that nobody labelled
    modalities: dict[str, Modality]
    provenance: dict[str, Any]
    files: dict[str, str] = {}  # SHA-256 of the other files of the folder; none in one of an older version
    sha256: str = ""  # of corpus.json itself, with this left empty; the last field, for `seal_text`

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in labels if labels.count(name) > 1]:
            raise ValueError(f"the label {twice[0]!r} occurs twice")
        if len(labels) == 1:
            raise ValueError(f"{labels[0]!r} is the only label: at least two are needed, or none at all")
        return labels


def read_manifest(folder: Path, *, sealed: bool = True) -> Manifest:
    """Read `corpus.json` of a corpus folder; with `sealed`, check its own checksum, if it has one.

    Raises:
        CorpusError: the folder is no corpus, or the file is of another format version or damaged.
    """
    path = folder / NAME
    try:
        text = path.read_bytes().decode("utf-8")
        manifest = Manifest.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise CorpusError(f"{folder} is not a corpus folder: it has no {NAME}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        raise CorpusError(f"{path}: {first_problem(error)}") from None
    if sealed and manifest.sha256 and not is_sealed(text, manifest.sha256):
        raise damaged(folder, NAME)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write `corpus.json` with its own checksum; return what stands in it."""
    text = seal_text(manifest.model_copy(update={"sha256": ""}).model_dump_json(indent=2) + "\n")
    write_text(folder / NAME, text)
    return Manifest.model_validate_json(text)


def file_sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a corpus folder but `corpus.json` and hidden ones, by name."""
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    shown = [n for n in names if n != Path(NAME) and not any(part.startswith(".") for part in n.parts)]
    return {name.as_posix(): sha256(folder / name) for name in shown}


def put_file(
    folder: Path,
    manifest: Manifest,
    name: str,
    write: Callable[[Path], None],
    adds: Mapping[str, Modality] | None = None,
) -> Manifest:
    """Write (or replace) a file of a corpus folder by `write(path)`, and the modality that it `adds`.

    The file is complete on disk before the manifest names it, and one that is replaced is taken out of the
    manifest first: killed at any moment, no file is another than the manifest says.
    """
    added = dict(adds or {})
    others = {m: x for m, x in manifest.modalities.items() if m not in added}
    sums = {file: x for file, x in manifest.files.items() if file != name}
    without = manifest.model_copy(update={"modalities": others, "files": sums})
    with atomic_path(folder / name) as temporary:
        write(temporary)
        if manifest.files:  # one of an older version has no sums: `seal` makes all of them
            sums = {**sums, name: sha256(temporary)}
        if name in manifest.files or len(others) < len(manifest.modalities):
            write_manifest(folder, without)
    return write_manifest(folder, without.model_copy(update={"modalities": others | added, "files": sums}))


def seal(folder: Path) -> Manifest:
    """Take the files of a corpus folder as they are: write their checksums into `corpus.json`.

    For a corpus of an older version, which has none, and for one that was edited on purpose.

    Raises:
        CorpusError: not a corpus folder, or `corpus.json` cannot be read.
    """
    manifest = read_manifest(folder, sealed=False)
    with exclusive(folder, CorpusError):
        return write_manifest(folder, manifest.model_copy(update={"files": file_sums(folder)}))


def require_intact(folder: Path, manifest: Manifest, name: str) -> None:
    """Refuse a file of a corpus folder that is not what its manifest says; one without a checksum passes.

    Raises:
        CorpusError: the file is damaged.
    """
    if name in manifest.files and sha256(folder / name) != manifest.files[name]:
        raise damaged(folder, name)


def damaged(folder: Path, name: str) -> CorpusError:
    """Return the error that says that a file is not what `corpus.json` says."""
    file = "its own" if name == NAME else "the one in corpus.json"
    return CorpusError(
        f"{folder / name} is damaged: its checksum is not {file}. Copy it from a backup or import the corpus "
        f"again; if it was changed on purpose, `mmerc corpus seal {folder}` takes it as it is"
    )


def first_problem(error: ValidationError) -> str:
    """Return the first of pydantic's complaints: where, and what."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{where}: {first['msg']}"
