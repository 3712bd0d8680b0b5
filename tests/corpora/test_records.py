import contextlib
import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerc.corpora import records
from mmerc.errors import CorpusError, MmercError

PATH = Path("utterances.csv")
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=5))
def test_csv_returns_what_the_standard_writer_wrote(rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("first", "second"), *rows])
    frame = records.parse_csv(file.getvalue(), PATH)
    assert [tuple(row) for row in frame.itertuples(index=False)] == rows


def test_csv_lines_point_at_the_start_of_a_record():
    frame = records.parse_csv('a,b\n"two\nlines",1\n\nlast,2\n', PATH)
    assert list(frame.index) == [2, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "line 3: 1 fields, but the header has 2"),
        ("a,b\n1,2,3\n", "line 2: 3 fields"),
        ('a,b\n1,"open\n', "broken CSV"),
        ("a,a\n1,2\n", "'a' occurs more than once"),
        ("a,b\n1,\0\n", "line 2: holds a NUL"),
        ("a,b\n", "holds no utterances"),
        ("", "holds no utterances"),
    ],
)
def test_broken_csv_is_refused_with_its_line(text, message):
    with pytest.raises(CorpusError, match=message):
        records.parse_csv(text, PATH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', "line 2: not JSON"),
        ("[1, 2]\n", "line 1: expected an object, found list"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"a": "\\ud83d"}', "line 1: an escape is half of a surrogate pair"),
        ('{"a": ' + "9" * 5000 + "}", "line 1: not JSON"),
        ("\n\n", "holds no utterances"),
    ],
)
def test_broken_json_lines_are_refused_with_their_line(text, message):
    with pytest.raises(CorpusError, match=message):
        records.parse_json_lines(text, PATH)


def test_json_lines_keep_unicode_line_separators_inside_a_text():
    line = json.dumps({"text": "one\u2028two 🙂"}, ensure_ascii=False)
    assert records.parse_json_lines(line, PATH)["text"].tolist() == ["one\u2028two 🙂"]


def test_a_file_that_is_not_utf8_names_line_and_byte(tmp_path):
    path = tmp_path / "u.csv"
    path.write_bytes(b"a,b\n1,caf\xe9\n")
    with pytest.raises(CorpusError, match=r"line 2: byte 0xe9 is not UTF-8"):
        records.read_records(path)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "u.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert list(records.read_records(path).columns) == ["a", "b"]


@pytest.mark.parametrize("name", ["missing.csv", "u.xlsx", "folder.csv"])
def test_unreadable_files_are_refused(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(CorpusError, match=name.split(".")[0]):
        records.read_records(tmp_path / name)


def test_a_missing_column_names_the_nearest():
    frame = records.parse_csv("dialog_id,Text\n1,a\n", PATH)
    with pytest.raises(CorpusError, match="did you mean 'dialog_id'"):
        records.column(frame, "dialogue_id", PATH)
    with pytest.raises(CorpusError, match="did you mean 'Text'"):
        records.column(frame, "text", PATH)


def test_whole_numbers():
    frame = records.parse_json_lines('{"n": 1}\n{"n": "2.0"}\n{"n": null}\n{"n": ""}\n{}\n', PATH)
    assert records.integers(frame["n"], PATH) == [1, 2, None, None, None]


@pytest.mark.parametrize("value", ['"1.5"', '"nan"', '"inf"', "Infinity", "1e300", '"one"', "[1]", "{}"])
def test_what_is_no_whole_number_is_refused_with_its_line(value):
    frame = records.parse_json_lines('{"n": 1}\n{"n": ' + value + "}\n", PATH)
    with pytest.raises(CorpusError, match=r"line 2: 'n' is .*expected a whole number"):
        records.integers(frame["n"], PATH)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_random_bytes_end_in_our_own_errors(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"random{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(MmercError):
        frame = records.read_records(path)
        assert len(frame)
        for name in frame.columns:
            assert len(records.strings(frame[name], path)) == len(frame)
            assert len(records.integers(frame[name], path)) == len(frame)


@pytest.mark.parametrize(
    "text", ['a,b\n1,2\n3,"4\n5,6\n7,8\n', f"a,b\n1,2\n3,{'x' * 200_000}\n"], ids=["quote", "long"]
)
def test_the_line_where_a_broken_record_begins_is_named(text):
    with pytest.raises(CorpusError, match=r"record that begins in line 3 .*is a quote not closed"):
        records.parse_csv(text, PATH)
