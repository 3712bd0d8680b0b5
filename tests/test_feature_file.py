import json
import re
import struct
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from mmerc.errors import CorpusError
from mmerc.feature_file import open_features


def write(path: Path, rows: int, width: int) -> torch.Tensor:
    values = torch.arange(rows * width, dtype=torch.float32).reshape(rows, width)
    save_file({"values": values, "present": torch.ones(rows, dtype=torch.bool)}, path)
    return values


def in_memory(path: Path) -> int:
    """Bytes of a mapped file that are in the memory of this process."""
    found = re.search(
        rf"{re.escape(str(path))}\n.*?Rss:\s+(\d+) kB",
        Path("/proc/self/smaps").read_text(encoding="utf-8"),
        re.S,
    )
    assert found
    return 1024 * int(found[1])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = write(tmp_path / "f", 5, 3)
    file = open_features(tmp_path / "f", 5, 3)
    assert torch.equal(file.values, values)
    assert file.present.tolist() == [True] * 5


def test_who_writes_to_a_table_changes_his_own_copy(tmp_path: Path) -> None:
    values = write(tmp_path / "f", 5, 3)
    before = (tmp_path / "f").read_bytes()
    mine = open_features(tmp_path / "f", 5, 3)
    mine.values[2] *= 2
    assert torch.equal(mine.values[2], 2 * values[2])
    assert torch.equal(open_features(tmp_path / "f", 5, 3).values, values)
    assert (tmp_path / "f").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("small", [0, 2**30])
def test_pages_that_were_read_are_given_back_unless_they_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr("mmerc.feature_file.SMALL", small)
    values = write(tmp_path / "f", 4096, 256)  # 4 MB
    file = open_features(tmp_path / "f", 4096, 256)
    assert in_memory(tmp_path / "f") < values.nbytes / 4
    for _ in range(2):
        assert torch.equal(file.values, values)
        assert in_memory(tmp_path / "f") >= values.nbytes
        file.pages.give_back()
        assert (in_memory(tmp_path / "f") == 0) == (small == 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts the memory that copies could take")
def test_a_file_may_be_larger_than_memory(tmp_path: Path) -> None:
    path, width = tmp_path / "f", 1024
    rows = 2 * psutil.virtual_memory().total // (4 * width)
    size = 4 * rows * width
    header = {
        "values": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, size]},
        "present": {"dtype": "BOOL", "shape": [rows], "data_offsets": [size, size + rows]},
    }
    text = json.dumps(header).encode()
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        handle.truncate(8 + len(text) + size + rows)  # holes take no room
    file = open_features(path, rows, width)
    assert not file.values[torch.tensor([0, rows - 1])].any()


def test_a_file_without_a_table_is_refused(tmp_path: Path) -> None:
    save_file({"values": torch.ones(2, 3)}, tmp_path / "f")
    with pytest.raises(CorpusError, match=r"cannot be read \(no table 'present'\): import"):
        open_features(tmp_path / "f", 2, 3)


def test_another_shape_or_type_is_told(tmp_path: Path) -> None:
    write(tmp_path / "f", 2, 3)
    with pytest.raises(
        CorpusError, match=r"values F32 \(2, 3\), .* say values F32 \(2, 4\), present BOOL \(2,\)"
    ):
        open_features(tmp_path / "f", 2, 4)
