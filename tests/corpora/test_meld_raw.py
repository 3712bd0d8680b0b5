import shutil
from pathlib import Path

import pytest

from mmerc.corpora.label_maps import read_label_map
from mmerc.corpora.meld_raw import FOLDERS, KNOWN_BROKEN, import_meld_raw, is_meld_raw
from mmerc.errors import CorpusError
from mmerc.media import Source, read_sources

REAL = Path(__file__).resolve().parents[2] / "../shared/data/meld"
HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
)
CLIPS = {
    "train": ("train_splits", [(0, 0), (125, 3)]),
    "dev": ("dev_splits_complete", [(7, 0), (110, 7)]),
    "test": ("output_repeated_splits_test", [(0, 0), (0, 1)]),
}


def _row(dialogue, utterance):
    times = '"00:00:01,000","00:00:02,500"'
    return f'1,"Hi.",Joey,surprise,positive,{dialogue},{utterance},1,1,{times}\n'


@pytest.fixture
def raw(tmp_path):
    """MELD.Raw with its archives unpacked side by side: two utterances per split, all clips there."""
    root = tmp_path / "MELD.Raw"
    for split, (folder, ids) in CLIPS.items():
        (root / folder).mkdir(parents=True)
        for dialogue, utterance in ids:
            (root / folder / f"dia{dialogue}_utt{utterance}.mp4").touch()
        rows = "".join(_row(*pair) for pair in ids)
        (root / f"{split}_sent_emo.csv").write_text(HEADER + rows, encoding="utf-8")
    return root


def _notes(corpus):
    return "\n".join(corpus.manifest.provenance["notes"])


def test_every_utterance_is_one_whole_clip(raw, tmp_path):
    assert is_meld_raw(raw)
    corpus = import_meld_raw(raw, tmp_path / "out")
    assert corpus.modalities == {}
    assert corpus.utterances["start_ms"].eq(1000).all()  # the times in the episode
    names = [
        "train_splits/dia0_utt0.mp4", "train_splits/dia125_utt3.mp4",
        "dev_splits_complete/dia7_utt0.mp4", "dev_splits_complete/dia110_utt7.mp4",
        "output_repeated_splits_test/dia0_utt0.mp4", "output_repeated_splits_test/dia0_utt1.mp4",
    ]  # fmt: skip
    expected = [Source(raw / name) for name in names]
    assert read_sources(corpus, "audio") == expected
    assert read_sources(corpus, "visual") == expected
    assert "2 clips are known to be broken, and kept: train dia125_utt3" in _notes(corpus)
    assert "missing" not in _notes(corpus)


def test_missing_clips_stay_as_utterances_and_are_told(raw, tmp_path):
    (raw / "dev_splits_complete/dia110_utt7.mp4").unlink()
    shutil.rmtree(raw / "train_splits")
    corpus = import_meld_raw(raw, tmp_path / "out")
    assert [source is None for source in read_sources(corpus, "audio")] == [1, 1, 0, 1, 0, 0]
    assert corpus.utterances["split"].value_counts().to_dict() == dict.fromkeys(FOLDERS, 2)
    assert "validation: 1 of 2 clips missing: dia110_utt7.mp4" in _notes(corpus)
    assert "there is no folder train_splits: its 2 utterances have no clips" in _notes(corpus)


def test_what_else_lies_there_is_not_used(raw, tmp_path):
    test = raw / "output_repeated_splits_test"
    for name in ("._dia0_utt0.mp4", "final_videos_testdia0_utt1.mp4", "dia9_utt9.mp4", "notes.txt"):
        (test / name).touch()
    corpus = import_meld_raw(raw, tmp_path / "out")
    assert [source.file.name for source in read_sources(corpus, "audio")[-2:]] == [
        "dia0_utt0.mp4",
        "dia0_utt1.mp4",
    ]
    assert "test: 1 clips in no transcript, not used: dia9_utt9.mp4" in _notes(corpus)
    assert "test: 1 clips have a second version final_videos_test…, not used" in _notes(corpus)
    corpus = import_meld_raw(raw, tmp_path / "out", second_versions=True)
    assert read_sources(corpus, "audio")[-1].file == test / "final_videos_testdia0_utt1.mp4"
    assert read_sources(corpus, "audio")[-2].file == test / "dia0_utt0.mp4"
    assert "used in place of the plain ones" in _notes(corpus)


@pytest.mark.parametrize("inner", [".", "MELD.Raw"])
def test_archives_may_lie_in_folders_of_their_own(raw, tmp_path, inner):
    other = tmp_path / "other"
    for split, (folder, _) in CLIPS.items():
        (other / inner / split).mkdir(parents=True)
        (raw / folder).rename(other / inner / split / folder)
    (raw / "train_sent_emo.csv").rename(other / inner / "train/train_sent_emo.csv")
    for name in ("dev", "test"):
        (raw / f"{name}_sent_emo.csv").rename(other / inner / f"{name}_sent_emo.csv")
    assert None not in read_sources(import_meld_raw(other, tmp_path / "out"), "visual")


def test_transcripts_may_lie_elsewhere(raw, tmp_path):
    (tmp_path / "csv").mkdir()
    for file in raw.glob("*.csv"):
        file.rename(tmp_path / "csv" / file.name)
    with pytest.raises(CorpusError, match=r"there is no train_sent_emo\.csv.*--transcript"):
        import_meld_raw(raw, tmp_path / "out")
    assert len(import_meld_raw(raw, tmp_path / "out", transcripts=tmp_path / "csv")) == 6


def test_surprise_is_positive_or_negative_as_the_annotators_found(raw, tmp_path):
    corpus = import_meld_raw(raw, tmp_path / "out", label_map=read_label_map("meld-3"))
    assert corpus.labels == ("neutral", "positive", "negative")
    assert set(corpus.utterances["label"]) == {"positive"}


def test_folders_without_clips_are_refused(raw, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not is_meld_raw(empty)
    with pytest.raises(CorpusError, match=r"none of MELD\.Raw's folders of clips: train_splits"):
        import_meld_raw(empty, tmp_path / "out")
    (empty / "dev.tar.gz").touch()
    with pytest.raises(CorpusError, match=r"unpack dev\.tar\.gz first"):
        import_meld_raw(empty, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the MELD transcripts are not here")
def test_the_real_transcripts(tmp_path):
    root = tmp_path / "raw"
    for folder in FOLDERS.values():
        (root / folder).mkdir(parents=True)
    corpus = import_meld_raw(root, tmp_path / "out", transcripts=REAL)
    assert read_sources(corpus, "audio") == [None] * 13708
    assert "train: 9989 of 9989 clips missing" in _notes(corpus)
    rows = set(zip(corpus.utterances["split"], corpus.utterances["media"], strict=True))
    assert {(split, f"{name}.mp4") for split, name in KNOWN_BROKEN} <= rows
    sentiments = import_meld_raw(
        root, tmp_path / "three", transcripts=REAL, label_map=read_label_map("meld-3")
    )
    assert sentiments.utterances["label"].value_counts().to_dict() == {
        "neutral": 6436,
        "negative": 4184,
        "positive": 3088,
    }
