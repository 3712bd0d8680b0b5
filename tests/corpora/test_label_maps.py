import contextlib

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmerc.corpora import iemocap, meld
from mmerc.corpora.label_maps import LabelMap, apply_label_map, map_note, read_label_map
from mmerc.corpora.table import import_table
from mmerc.errors import CorpusError, MmercError


@pytest.mark.parametrize(
    ("name", "labels", "source"),
    [
        ("meld-7", meld.LABELS, meld.LABELS),
        ("meld-3", ("neutral", "positive", "negative"), meld.LABELS),
        (
            "iemocap-6",
            ("happy", "sad", "neutral", "angry", "excited", "frustrated"),
            iemocap.EMOTIONS.values(),
        ),
        ("iemocap-4", ("happy", "sad", "neutral", "angry"), iemocap.EMOTIONS.values()),
    ],
)
def test_the_named_maps_cover_their_source(name, labels, source):
    label_map = read_label_map(name)
    assert label_map.labels == labels
    assert set(label_map.table) == {label for label in source if label is not None}


def test_labels_are_renamed_merged_and_left_out():
    label_map = read_label_map("iemocap-4")
    given = pd.Series(["excited", None, "frustrated", "happy", "sad", "excited"])
    mapped = apply_label_map(given, label_map, "x")
    assert mapped.fillna("").tolist() == ["happy", "", "", "happy", "sad", "happy"]
    assert map_note(given, label_map) == "label map iemocap-4: excited → happy (2), frustrated → no label (1)"
    assert map_note(pd.Series(["sad"]), label_map) == "label map iemocap-4: no label changes"


def test_a_label_that_the_map_does_not_name_is_refused():
    with pytest.raises(CorpusError, match=r"u\.csv: .*'meld-7' says nothing of 'sad'.*`sad: null` leaves"):
        apply_label_map(pd.Series(["joy", "sad"]), read_label_map("meld-7"), "u.csv")


def test_a_map_of_ones_own(tmp_path):
    path = tmp_path / "polite.yaml"
    path.write_text("joy: good\nlove: good\nsad: bad\nbored:\n", encoding="utf-8")
    label_map = read_label_map(path)
    assert (label_map.name, label_map.labels) == ("polite", ("good", "bad"))
    (tmp_path / "u.csv").write_text(
        "dialogue_id,label\na,love\na,bored\na,sad\na,\nb,joy\n", encoding="utf-8"
    )
    corpus = import_table(tmp_path / "u.csv", {}, tmp_path / "out", label_map=label_map)
    assert corpus.labels == ("good", "bad")
    assert corpus.targets.tolist() == [0, -1, 1, -1, 0]
    assert any("bored → no label (1)" in note for note in corpus.manifest.provenance["notes"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("joy: good\n", "at least two labels"),
        ("", "found NoneType"),
        ("- joy\n- sad\n", "found list"),
        ("no: bad\nyes: good\n", "False is no name of a label: write it in quotes"),
        ("joy: 1\nsad: 2\n", "'joy': 1 is no name"),
        ("joy: [\n", "is not YAML"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_broken_map_says_what_is_wrong(tmp_path, content, said):
    path = tmp_path / "map.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=said):
        read_label_map(path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CorpusError, match=r"did you mean 'iemocap-4'.*there are: meld-7, meld-3"):
        read_label_map("iemocap4")


@given(st.binary(max_size=60))
def test_random_bytes_are_a_map_or_our_own_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("map") / "map.yaml"
    path.write_bytes(content)
    with contextlib.suppress(MmercError):
        assert len(read_label_map(path).labels) >= 2


@given(st.dictionaries(st.text(min_size=1), st.sampled_from(["a", "b", "c", None]), min_size=1))
def test_mapped_labels_are_classes_of_the_map(table):
    label_map = LabelMap("own", table)
    new = apply_label_map(pd.Series([*table, None], dtype=object), label_map, "x")
    assert set(new.dropna()) == set(label_map.labels)
    assert new.isna().sum() == 1 + list(table.values()).count(None)
    assert yaml.safe_load(yaml.safe_dump(dict(table))) == table
