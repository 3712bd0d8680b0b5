import pytest

from mmerc.corpora.iemocap import import_iemocap, is_iemocap
from mmerc.corpora.label_maps import read_label_map
from mmerc.errors import CorpusError
from mmerc.media import Source, read_sources

RATINGS = """\
% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\t{d}_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
A-E3:\tval 3; act 2; dom  2;\t()

[10.0100 - 11.3925]\t{d}_F001\texc\t[2.5000, 2.5000, 2.5000]
C-E2:\tExcited;\t()

[8.0000 - 9.5000]\t{d}_M000\txxx\t[2.5000, 2.5000, 2.5000]
[12.0000 - 13.0000]\t{d}_M001\tfru\t[2.5000, 2.5000, 2.5000]
[13.0000 - 14.0000]\t{d}_M002\tsur\t[2.5000, 2.5000, 2.5000]
"""
WORDS = """\
{d}_F000 [006.2901-008.2357]: Excuse me.
{d}_M000 [008.0000-009.5000]: Yes: what?
{d}_MXX0 [009.5000-009.9000]: [LAUGHTER]
{d}_F001 [010.0100-011.3925]: Is this the right line?
M: I don't know.
{d}_M001 [012.0000-013.0000]: No.
{d}_M002 [013.0000-014.0000]: Oh!
"""


def add_dialogue(root, name, ratings=RATINGS, words=WORDS, newline="\n"):
    session = root / f"Session{name[4]}"
    for folder in ("EmoEvaluation", "transcriptions", "avi/DivX"):
        (session / "dialog" / folder).mkdir(parents=True, exist_ok=True)
    for folder, text in (("EmoEvaluation", ratings), ("transcriptions", words)):
        path = session / "dialog" / folder / f"{name}.txt"
        path.write_text(text.format(d=name), encoding="utf-8", newline=newline)
    (session / f"dialog/avi/DivX/{name}.avi").touch()
    wav = session / "sentences/wav" / name
    wav.mkdir(parents=True)
    for turn in ("F000", "F001", "M000", "M001", "M002"):
        (wav / f"{name}_{turn}.wav").touch()


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "IEMOCAP_full_release"
    for name in ("Ses01F_impro01", "Ses01M_impro01", "Ses05F_script01_1"):
        add_dialogue(root, name)
    return root


def _notes(corpus):
    return "\n".join(corpus.manifest.provenance["notes"])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_utterances_stand_in_time_order_with_words_speakers_and_labels(tmp_path, newline):
    add_dialogue(tmp_path / "in", "Ses01F_impro01", newline=newline)
    corpus = import_iemocap(tmp_path / "in", tmp_path / "out")
    table = corpus.utterances
    assert corpus.labels == ("happy", "sad", "neutral", "angry", "excited", "frustrated")
    assert table["media"].str[-4:].tolist() == ["F000", "M000", "F001", "M001", "M002"]
    assert table["utterance_index"].tolist() == [0, 1, 2, 3, 4]
    assert table["speaker"].tolist() == ["Ses01_F", "Ses01_M", "Ses01_F", "Ses01_M", "Ses01_M"]
    assert table["text"].tolist()[:3] == ["Excuse me.", "Yes: what?", "Is this the right line?"]
    assert table["start_ms"].tolist()[:2] == [6290, 8000]
    assert table["end_ms"].tolist()[:2] == [8236, 9500]
    assert table["label"].fillna("").tolist() == ["neutral", "", "excited", "frustrated", ""]


def test_sound_is_a_file_and_pictures_are_half_of_a_film(release, tmp_path):
    assert is_iemocap(release)
    assert is_iemocap(release.parent)
    corpus = import_iemocap(release.parent, tmp_path / "out")
    assert corpus.dialogue_ids == ["Ses01F_impro01", "Ses01M_impro01", "Ses05F_script01_1"]
    wav = release / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    film = release / "Session1/dialog/avi/DivX/Ses01F_impro01.avi"
    assert read_sources(corpus, "audio")[0] == Source(wav)
    looks = read_sources(corpus, "visual")
    assert looks[0] == Source(film, 6290, 8236, "left")
    # The actor with the markers, whose letter the dialogue bears, is on the left.
    assert [look.crop for look in looks[:5]] == ["left", "right", "left", "right", "right"]
    assert [look.crop for look in looks[5:10]] == ["right", "left", "right", "left", "left"]


def test_session_5_is_the_test_and_a_tenth_of_the_rest_validates(tmp_path):
    for number in range(10):
        for session in (1, 2):
            add_dialogue(tmp_path / "in", f"Ses0{session}F_impro{number:02}")
    add_dialogue(tmp_path / "in", "Ses05M_impro01")
    corpus = import_iemocap(tmp_path / "in", tmp_path / "out")
    names = {s: [corpus.dialogue_ids[d] for d in corpus.split(s)] for s in ("train", "validation", "test")}
    assert names["validation"] == ["Ses01F_impro05", "Ses02F_impro05"]
    assert names["test"] == ["Ses05M_impro01"]
    assert len(names["train"]) == 18
    assert "2 of 20 training dialogues are for validation: Ses01F_impro05, Ses02F_impro05" in _notes(corpus)
    assert "Session3, Session4 missing" in _notes(corpus)


def test_four_classes_and_only_what_is_labelled(release, tmp_path):
    label_map = read_label_map("iemocap-4")
    corpus = import_iemocap(release, tmp_path / "out", label_map=label_map, labelled_only=True)
    assert corpus.labels == ("happy", "sad", "neutral", "angry")
    assert corpus.utterances["label"].tolist() == ["neutral", "happy"] * 3
    assert corpus.utterances["utterance_index"].tolist() == [0, 1] * 3
    assert [s.file.stem[-4:] for s in read_sources(corpus, "audio")] == ["F000", "F001"] * 3
    assert "9 of 15 utterances have no label (3 without agreement): left out" in _notes(corpus)


def test_what_is_odd_is_told(release, tmp_path):
    session = release / "Session1"
    (session / "dialog/EmoEvaluation/._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07")
    (session / "dialog/EmoEvaluation/Attribute").mkdir()
    (session / "dialog/avi/DivX/Ses01M_impro01.avi").unlink()
    (session / "sentences/wav/Ses01F_impro01/Ses01F_impro01_F001.wav").unlink()
    (session / "dialog/transcriptions/Ses01M_impro01.txt").unlink()
    with (session / "dialog/EmoEvaluation/Ses01F_impro01.txt").open("a", encoding="utf-8") as file:
        file.write("[1.0 - 2.0]\tbroken\n[3.0 - 3.0]\tSes01F_impro01_F009\tneu\t[1]\n")
    corpus = import_iemocap(release, tmp_path / "out")
    assert len(corpus) == 15
    sounds, films = read_sources(corpus, "audio"), read_sources(corpus, "visual")
    assert [row for row, source in enumerate(sounds) if source is None] == [2]
    assert [row for row, source in enumerate(films) if source is None] == [5, 6, 7, 8, 9]
    for said in (
        "2 ratings could not be read: Ses01F_impro01.txt: [1.0 - 2.0]\tbroken",
        "1 dialogues have no transcript: Ses01M_impro01",
        "5 rated utterances have no text: Ses01M_impro01_F000",
        "2 turns of the transcripts are not rated and left out: Ses01F_impro01_MXX0",
        "2 lines of the transcripts are no turns and left out: Ses01F_impro01.txt: M: I don't know.",
        "1 sound files missing under sentences/wav: Ses01F_impro01_F001",
        "1 films missing under dialog/avi/DivX: Ses01M_impro01",
    ):
        assert said in _notes(corpus)


def test_what_cannot_be_used_is_refused(release, tmp_path):
    assert not is_iemocap(tmp_path / "nothing")
    with pytest.raises(CorpusError, match="holds no folder Session1"):
        import_iemocap(tmp_path / "nothing", tmp_path / "out")
    path = release / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    path.write_text("[1.0 - 2.0]\tSes01F_impro01_F000\tjoy\t[1, 1, 1]\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="Ses01F_impro01_F000: unknown emotion 'joy'"):
        import_iemocap(release, tmp_path / "out")
    for path in release.glob("Session*/dialog/EmoEvaluation/*.txt"):
        path.write_text("", encoding="utf-8")
    with pytest.raises(CorpusError, match="hold no ratings"):
        import_iemocap(release, tmp_path / "out")
