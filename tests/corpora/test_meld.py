from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerc.corpora.checking import check, class_counts
from mmerc.corpora.meld import LABELS, import_meld
from mmerc.errors import CorpusError, MmercError

REAL = Path(__file__).resolve().parents[2] / "../shared/data/meld"
HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
)


def _row(
    dialogue,
    utterance,
    text="Hi.",
    emotion="neutral",
    start="00:00:01,000",
    end="00:00:02,500",
):
    return f'1,"{text}",Joey,{emotion},neutral,{dialogue},{utterance},1,1,"{start}","{end}"\n'


def _write(folder, name, *rows, encoding="utf-8"):
    (folder / f"{name}_sent_emo.csv").write_text(HEADER + "".join(rows), encoding=encoding)


def test_dialogues_of_all_splits_are_told_apart_and_sorted_by_number(tmp_path):
    _write(tmp_path, "train", _row(10, 0), _row(2, 4), _row(2, 1))
    _write(tmp_path, "dev", _row(2, 0))
    corpus = import_meld(tmp_path, tmp_path / "out")
    table = corpus.utterances
    assert corpus.dialogue_ids == ["train_2", "train_10", "validation_2"]
    assert table["split"].tolist() == ["train", "train", "train", "validation"]
    assert table["utterance_index"].tolist() == [1, 4, 0, 0]  # gaps are kept: the clips are named by them
    assert table["media"].tolist() == ["dia2_utt1.mp4", "dia2_utt4.mp4", "dia10_utt0.mp4", "dia2_utt0.mp4"]
    assert corpus.labels == LABELS


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_windows_1252_leftovers_are_undone(tmp_path, encoding):
    text = "It\u0092s \u0093fine\u0094 \u0085" if encoding == "utf-8" else "It’s “fine” …"
    _write(tmp_path, "test", _row(0, 0, text), encoding=encoding)
    corpus = import_meld(tmp_path, tmp_path / "out")
    assert corpus.utterances["text"].tolist() == ["It’s “fine” …"]
    assert corpus.manifest.provenance["repaired_characters"] == 4


@settings(deadline=None, max_examples=25)
@given(st.text("aé’“”…🙂ß "))
def test_proper_text_is_left_alone(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("meld")
    _write(folder, "dev", _row(0, 0, text))
    corpus = import_meld(folder, folder / "out")
    assert corpus.utterances["text"].tolist() == [text.strip()]
    assert corpus.manifest.provenance["repaired_characters"] == 0


def test_times_are_milliseconds_and_odd_ones_are_left_out(tmp_path):
    _write(
        tmp_path,
        "train",
        _row(0, 0, start="0:01:02,500", end="01:01:03,82"),
        _row(0, 1, start="00:00:05,000", end="00:00:04,000"),
        _row(0, 2, start="00:00:05,000", end="00:00:05,000"),
        _row(0, 3, start="soon", end="00:00:05,000"),
    )
    corpus = import_meld(tmp_path, tmp_path / "out")
    assert corpus.utterances["start_ms"].iloc[0] == 62_500
    assert corpus.utterances["end_ms"].iloc[0] == 3_663_820
    assert corpus.utterances[["start_ms", "end_ms"]].iloc[1:].isna().all(axis=None)
    assert corpus.manifest.provenance["unusable_times"] == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([_row(0, 0), _row(0, 1, emotion="bored")], "line 3: unknown emotion 'bored'"),
        ([_row("x", 0)], "line 2: 'Dialogue_ID' is 'x'"),
        ([_row("", 0)], "line 2: 'Dialogue_ID' is empty"),
        ([_row(0, 0), _row(0, 0)], "line 3: this dialogue and utterance were there before"),
        (["1,2\n"], "line 2: 2 fields"),
        ([], "no utterances"),
    ],
)
def test_broken_files_are_refused_and_nothing_is_written(tmp_path, rows, message):
    _write(tmp_path, "train", *rows)
    with pytest.raises(CorpusError, match=message):
        import_meld(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_any_of_the_files_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"none of train_sent_emo\.csv"):
        import_meld(tmp_path, tmp_path / "out")


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_random_bytes_end_in_our_own_errors(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("meld")
    (folder / "train_sent_emo.csv").write_bytes(HEADER.encode() + content)
    with pytest.raises(MmercError):
        import_meld(folder, folder / "out")


@pytest.mark.skipif(not REAL.exists(), reason="the MELD transcripts are not here")
def test_the_real_transcripts(tmp_path):
    corpus = import_meld(REAL, tmp_path / "meld")
    counts = class_counts(corpus)
    assert counts.sum(axis=1).to_dict() == {"train": 9989, "validation": 1109, "test": 2610}
    assert [len(corpus.split(name)) for name in counts.index] == [1038, 114, 280]
    assert counts.loc["train"].tolist() == [4710, 1205, 268, 683, 1743, 271, 1109]
    assert corpus.manifest.provenance["unusable_times"] == 1
    assert not corpus.utterances["text"].str.contains("[\u0080-\u009f\ufffd]").any()
    assert "train_60" not in corpus.dialogue_ids
    assert check(corpus) == []
