import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmerc.storage import atomic_folder, atomic_path, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def fill(path: Path) -> None:
    path.write_text("half", encoding="utf-8")
    raise OSError("disk full")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert names(path.parent) == ["a.txt"]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), atomic_path(path) as temporary:
        fill(temporary)
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_disk_that_is_full_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="No space left") as raised, atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(path) in str(raised.value)


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    child = ended.pid
    dead, alive = (tmp_path / f".a[1].txt.{process}.tmp" for process in (child, os.getppid()))
    others = [tmp_path / f".b.txt.{child}.tmp", tmp_path / ".a[1].txt.mine.tmp"]
    for path in (dead, alive, *others):
        path.touch()
    write_text(tmp_path / "a[1].txt", "whole")
    assert names(tmp_path) == sorted(["a[1].txt", alive.name, *(path.name for path in others)])


def test_text_that_is_no_unicode_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "new \ud800")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_json_is_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Zoë 😀"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Zoë 😀"}
    assert "Zoë 😀" in text


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"path": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == 1


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    for name in ("old", "new"):
        with atomic_folder(path) as temporary:
            (temporary / name).write_text(name, encoding="utf-8")
    assert names(path) == ["new"]
    assert names(path.parent) == ["folder"]


def test_a_failing_write_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "old").touch()
    with pytest.raises(OSError, match="disk full"), atomic_folder(path) as temporary:
        fill(temporary / "half")
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_failing_exchange_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "old").touch()
    move = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError("no")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr("mmerc.storage.exchange", lambda one, other: False)
    with pytest.raises(OSError, match="no"), atomic_folder(path) as temporary:
        (temporary / "new").touch()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_process_of_the_same_number_left_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "old").touch()
        leftovers = [temporary, temporary.with_suffix(".old")]
    for leftover in leftovers:  # in a container, the process number is often the same again
        leftover.mkdir()
        (leftover / "stale").touch()
    with atomic_folder(path) as temporary:
        (temporary / "new").touch()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["folder"]
