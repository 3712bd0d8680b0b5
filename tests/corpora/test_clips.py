import pandas as pd
import pytest

from mmerc.corpora.clips import import_clips
from mmerc.corpora.label_maps import read_label_map
from mmerc.errors import CorpusError
from mmerc.media import Source, read_sources

ROWS = pd.DataFrame(
    {
        "media": ["a.mp4", "sub/b.wav", "a.mp4", None],
        "dialogue_id": ["d1", "d1", "d2", "d2"],
        "speaker": ["Ann", "Ben", "Ann", "Ben"],
        "text": ["Hi.", "No!", "Well.", "Bye."],
        "label": ["joy", "anger", "joy", "anger"],
        "split": ["train", "train", "dev", "dev"],
    }
)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "clips"
    (root / "sub").mkdir(parents=True)
    for name in ("a.mp4", "sub/b.wav"):
        (root / name).touch()
    return root


def _table(folder, frame=ROWS, name="utterances.csv"):
    if name.endswith(".jsonl"):
        frame.to_json(folder / name, orient="records", lines=True)
    else:
        frame.to_csv(folder / name, index=False, sep="\t" if name.endswith(".tsv") else ",")
    return folder / name


def _notes(corpus):
    return "\n".join(corpus.manifest.provenance["notes"])


@pytest.mark.parametrize("name", ["utterances.csv", "u.tsv", "u.jsonl"])
def test_a_record_names_the_file_of_an_utterance(folder, tmp_path, name):
    _table(folder, name=name)
    corpus = import_clips(folder, tmp_path / "out")
    assert corpus.dialogue_ids == ["d1", "d2"]
    assert corpus.utterances["split"].tolist() == ["train", "train", "validation", "validation"]
    film, sound = Source(folder / "a.mp4"), Source(folder / "sub/b.wav")
    assert read_sources(corpus, "audio") == [film, sound, film, None]
    assert read_sources(corpus, "visual") == [film, None, film, None]
    assert "1 utterances name no media file" in _notes(corpus)


def test_a_part_of_a_file_follows_its_row_when_rows_are_sorted(folder, tmp_path):
    frame = ROWS.iloc[[2, 0]].assign(dialogue_id="d", utterance_index=[1, 0], clip_start_ms=[500, None])
    _table(folder, frame.assign(clip_end_ms=[900, 400]))
    corpus = import_clips(folder, tmp_path / "out", labels=["joy", "anger"])
    assert corpus.utterances["text"].tolist() == ["Hi.", "Well."]
    file = folder / "a.mp4"
    assert read_sources(corpus, "audio") == [Source(file, 0, 400), Source(file, 500, 900)]
    assert corpus.utterances["start_ms"].isna().all()  # the times in the dialogue are another matter


def test_columns_labels_and_validation_are_those_of_a_table(folder, tmp_path):
    frame = ROWS.rename(columns={"media": "file", "label": "emotion"}).assign(
        dialogue_id=["a", "b", "c", "d"], split="train"
    )
    table = _table(folder, frame)
    with pytest.raises(CorpusError, match="has no column 'label'"):
        import_clips(folder, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"has no column 'media' .*--column media=NAME"):
        import_clips(folder, tmp_path / "out", columns={"label": "emotion"})
    columns = {"label": "emotion", "media": "file"}
    three = read_label_map("meld-3")
    corpus = import_clips(
        folder, tmp_path / "out", table=table, columns=columns, label_map=three, validation=1
    )
    assert corpus.utterances["label"].tolist() == ["positive", "negative"] * 2
    assert len(corpus.split("validation")) == 1
    assert import_clips(folder, tmp_path / "out", columns={"media": "file"}, labels=[]).labels == ()


def test_missing_files_are_told_and_the_utterance_stays(folder, tmp_path):
    (folder / "sub/b.wav").unlink()
    _table(folder)
    corpus = import_clips(folder, tmp_path / "out")
    assert [source is None for source in read_sources(corpus, "audio")] == [0, 1, 0, 1]
    assert "1 media files missing: sub/b.wav" in _notes(corpus)
    (folder / "a.mp4").unlink()
    with pytest.raises(CorpusError, match=r"none of its media files is in .*: a\.mp4, sub/b\.wav"):
        import_clips(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"clip_start_ms": -1}, "line 2: the part from -1 to <NA> ms is no span"),
        ({"clip_start_ms": 5, "clip_end_ms": 5}, "line 2: the part from 5 to 5 ms"),
        ({"clip_end_ms": 0}, "line 2: the part from <NA> to 0 ms"),
        ({"clip_end_ms": "soon"}, "line 2: 'clip_end_ms' is 'soon', expected a whole number"),
        ({"media": "/etc/hosts"}, "line 2: '/etc/hosts': name media files relative to"),
    ],
)
def test_wrong_cells_are_refused_with_their_line(folder, tmp_path, columns, said):
    _table(folder, ROWS.assign(**columns))
    with pytest.raises(CorpusError, match=said):
        import_clips(folder, tmp_path / "out")


def test_recordings_with_a_transcript_beside_each_need_no_table(folder, tmp_path):
    lines = "start,end,speaker,text\n0,1,Ann,Hi.\n1,2,Ben,Bye.\n"
    for name in ("a.csv", "sub/b.csv", "a.tsv"):  # of several, the first kind in the order of preference
        (folder / name).write_text(lines, encoding="utf-8")
    (folder / "sub/._b.wav").touch()
    corpus = import_clips(folder, tmp_path / "out")
    assert corpus.dialogue_ids == ["a", "sub/b"]
    assert read_sources(corpus, "audio")[3] == Source(folder / "sub/b.wav", 1000, 2000)
    with pytest.raises(CorpusError, match="columns and validation dialogues are for a table"):
        import_clips(folder, tmp_path / "out", validation=1)
    (folder / "sub/b.csv").unlink()
    with pytest.raises(CorpusError, match=r"1 of 2 media files have no transcript beside them: sub/b\.wav"):
        import_clips(folder, tmp_path / "out")


def test_a_folder_that_explains_nothing_is_refused(folder, tmp_path):
    with pytest.raises(
        CorpusError, match=r"2 media files.*header media,dialogue_id,speaker,text,label,split"
    ):
        import_clips(folder, tmp_path / "out")
    _table(folder, name="one.csv")
    _table(folder, name="two.csv")
    with pytest.raises(CorpusError, match=r"several tables \(one\.csv, two\.csv\)"):
        import_clips(folder, tmp_path / "out")
    with pytest.raises(CorpusError, match="is not a folder"):
        import_clips(folder / "nowhere", tmp_path / "out")
