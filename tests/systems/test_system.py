import errno
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mmerc import system
from mmerc.errors import CorpusError
from mmerc.storage import LOCK, atomic_folder, exclusive, write_text
from mmerc.system import end_tree, file_name, is_alive, replace

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print(child.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize(
    "name",
    ["meld", "learning_rate=0.001,dropout=0.2", "hidden=[1, 2]", "Zoë 😀", "console", ".hidden", "a.b"],
)
def test_names_that_every_system_takes_stay(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["a:b", "a/b", "a\\b", "what?", "a*", "aux", "CON", "nul.txt", "com1", "ends.", "ends ", "", "a\0", ".."],
)
def test_names_that_windows_refuses_give_way(name: str) -> None:
    given = file_name(name)
    assert file_name(given) == given
    assert given != file_name(f"{name}:")  # each stays another's


def test_a_name_in_the_place_of_another_keeps_what_can_be_read() -> None:
    assert file_name("name=FacebookAI/roberta").startswith("name=FacebookAI_roberta-")


def test_processes_that_live_and_that_do_not() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(process.pid)
    process.communicate(b"\n")
    assert not is_alive(process.pid)
    assert not is_alive(10**30)


@pytest.mark.slow
def test_a_process_ends_with_all_that_it_has_started() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", PARENT], stdout=subprocess.PIPE, **system.apart())
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    end_tree(process.pid)
    assert process.wait(10) != 0
    child.wait(10)
    end_tree(process.pid)  # nothing is left to do
    process.stdout.close()


# As on Windows, where what is open keeps its place


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is open keeps its place; one is not patient."""
    monkeypatch.setattr("mmerc.system.FIXED_WHILE_OPEN", True)
    monkeypatch.setattr("mmerc.storage.FIXED_WHILE_OPEN", True)
    monkeypatch.setattr("mmerc.storage.exchange", lambda one, other: False)
    monkeypatch.setattr("mmerc.system.PATIENCE_S", 0.2)


def refuse(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let renaming fail so many times."""
    left = iter(range(times))
    move = Path.replace

    def moved(self: Path, target: Path) -> Path:
        if next(left, None) is not None:
            raise PermissionError(errno.EACCES, "Access is denied", str(self), None, str(target))
        return move(self, target)

    monkeypatch.setattr(Path, "replace", moved)


@pytest.mark.usefixtures("fixed")
def test_a_virus_scanner_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")
    refuse(monkeypatch, 2)
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "new"


@pytest.mark.usefixtures("fixed")
def test_a_program_that_keeps_a_file_open_is_named_as_a_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a", "old")
    refuse(monkeypatch, 1000)
    with pytest.raises(PermissionError, match=r"is it open in another program\?.*'a'|program.*a"):
        write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"


def test_other_systems_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerc.system.FIXED_WHILE_OPEN", False)
    refuse(monkeypatch, 1000)
    begin = time.monotonic()
    with pytest.raises(PermissionError):
        replace(tmp_path / "a", tmp_path / "b")
    assert time.monotonic() - begin < 0.1


@pytest.mark.usefixtures("fixed")
def test_a_locked_folder_gives_its_lock_back_before_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    for name in ("old", "new"):
        with exclusive(folder, CorpusError), atomic_folder(folder) as temporary:
            assert (folder / LOCK).exists()
            (temporary / name).touch()
            monkeypatch.setattr(
                "mmerc.storage.replace",
                lambda source, target: (source / LOCK).exists() or replace(source, target),
            )
        assert [path.name for path in folder.iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.usefixtures("fixed")
def test_a_lock_that_another_process_has_opened_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Access is denied")

    with exclusive(tmp_path, CorpusError):
        monkeypatch.setattr(Path, "unlink", refused)
    monkeypatch.undo()
    assert (tmp_path / LOCK).exists()
    with exclusive(tmp_path, CorpusError):  # it locks nothing
        pass
    assert not (tmp_path / LOCK).exists()
