import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmerc.corpora.label_maps import read_label_map
from mmerc.corpora.recording import import_recordings
from mmerc.corpus import Corpus
from mmerc.errors import ConversationError, CorpusError
from mmerc.manifest import seal
from mmerc.media import Source, read_sources

LINES = "start,end,speaker,text,label\n0,1.5,Ann,Hello.,joy\n2,3.25,Ben,Go away.,anger\n"


def _pair(folder, name="meeting.mp4", lines=LINES):
    media, transcript = folder / name, (folder / name).with_suffix(".csv")
    media.parent.mkdir(parents=True, exist_ok=True)
    media.touch()
    transcript.write_text(lines, encoding="utf-8")
    return media, transcript


def test_the_times_of_the_transcript_select_the_span(tmp_path):
    media, transcript = _pair(tmp_path / "a folder 🎬")
    corpus = import_recordings([(media, transcript)], tmp_path / "out")
    assert corpus.dialogue_ids == ["meeting"]
    assert corpus.labels == ("anger", "joy")
    assert corpus.utterances["speaker"].tolist() == ["Ann", "Ben"]
    spans = [Source(media, 0, 1500), Source(media, 2000, 3250)]
    assert read_sources(corpus, "audio") == spans
    assert read_sources(corpus, "visual") == spans
    assert corpus.utterances["start_ms"].tolist() == [0, 2000]


def test_several_recordings_are_dialogues_named_from_their_common_folder(tmp_path):
    pairs = [_pair(tmp_path, "one/talk.mp4"), _pair(tmp_path, "two/talk.wav"), _pair(tmp_path, "three.mkv")]
    corpus = import_recordings(pairs, tmp_path / "out")
    assert corpus.dialogue_ids == ["one/talk", "two/talk", "three"]
    assert [s.file for s in read_sources(corpus, "audio")][::2] == [media for media, _ in pairs]
    assert [s is None for s in read_sources(corpus, "visual")] == [0, 0, 1, 1, 0, 0]  # .wav has no pictures


def test_a_transcript_without_labels_makes_a_corpus_without(tmp_path):
    pair = _pair(tmp_path, lines="start,end,text\n0,1,Hello.\n")
    corpus = import_recordings([pair], tmp_path / "out")
    assert corpus.labels == ()
    assert any("no utterance has a label" in note for note in corpus.manifest.provenance["notes"])
    assert import_recordings([pair], tmp_path / "out", labels=["joy", "anger"]).labels == ("joy", "anger")


def test_labels_are_given_or_mapped(tmp_path):
    pair = _pair(tmp_path)
    assert import_recordings([pair], tmp_path / "out", labels=["joy", "anger"]).targets.tolist() == [0, 1]
    mapped = import_recordings([pair], tmp_path / "out", label_map=read_label_map("meld-3"))
    assert mapped.utterances["label"].tolist() == ["positive", "negative"]
    with pytest.raises(CorpusError, match=r"meeting\.csv: unknown label 'anger'.*labels are joy, sad"):
        import_recordings([pair], tmp_path / "out", labels=["joy", "sad"])
    only = _pair(tmp_path, "only.mp4", lines="start,end,text,label\n0,1,Hi,joy\n")
    with pytest.raises(CorpusError, match="the only label is 'joy': name all classes"):
        import_recordings([only], tmp_path / "out")


def test_utterances_that_overlap_or_are_out_of_order_keep_their_place(tmp_path):
    pair = _pair(tmp_path, lines="start,end,text\n5,6,late\n0,9,early\n2,2,a dot\n")
    corpus = import_recordings([pair], tmp_path / "out")
    assert corpus.utterances["text"].tolist() == ["late", "early", "a dot"]
    assert "1 utterances start before the one above them" in str(corpus.manifest.provenance["notes"])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("start,end,text\n0,1,Hi\n2,,So what\n", r"utterance 2 \('So what'\) has no start or no end"),
        ("text\nHi\n", r"utterance 1 \('Hi'\) has no start or no end"),
        ("start,end,text\n3,1,Hi\n", "ends at 1000 ms, before it starts"),
        ("start,end,text,dialogue_id\n0,1,Hi,a\n0,1,Hi,b\n", "holds 2 dialogues, but belongs to one"),
    ],
)
def test_transcripts_that_do_not_fit_a_recording_are_refused(tmp_path, lines, said):
    # A reader of transcripts may refuse the times before the importer sees them.
    with pytest.raises((CorpusError, ConversationError)) as refusal:
        import_recordings([_pair(tmp_path, lines=lines)], tmp_path / "out")
    if isinstance(refusal.value, CorpusError):
        refusal.match(said)
    assert not (tmp_path / "out").exists()


def test_recordings_that_cannot_be_told_apart_or_found_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="no recordings"):
        import_recordings([], tmp_path / "out")
    first, second = _pair(tmp_path, "a.mp4"), _pair(tmp_path, "a.wav")
    with pytest.raises(CorpusError, match=r"a\.mp4 and a\.wav are both called 'a'"):
        import_recordings([first, second], tmp_path / "out")
    with pytest.raises(CorpusError, match=r"b\.mp4 does not exist"):
        import_recordings([(tmp_path / "b.mp4", first[1])], tmp_path / "out")


def test_whisperx_segments_are_utterances(tmp_path):
    segments = [{"start": 0.5, "end": 1.25, "text": " Hello.", "speaker": "SPEAKER_00"}]
    (tmp_path / "x.json").write_text(json.dumps({"segments": segments}), encoding="utf-8")
    (tmp_path / "x.wav").touch()
    corpus = import_recordings([(tmp_path / "x.wav", tmp_path / "x.json")], tmp_path / "out")
    assert read_sources(corpus, "audio") == [Source(tmp_path / "x.wav", 500, 1250)]


def test_a_media_table_with_text_that_is_no_utf8_is_refused(tmp_path):
    corpus = import_recordings([_pair(tmp_path)], tmp_path / "out")
    path = corpus.path / "media.parquet"
    ends, cells = pa.array([0, 2, 4], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe\xff\xfe")
    files = pa.Array.from_buffers(pa.string(), 2, [None, ends, cells])
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("audio_file"), "audio_file", files), path)
    seal(corpus.path)
    with pytest.raises(CorpusError, match=r"media\.parquet cannot be read \(.*UTF8.*extract the corpus"):
        read_sources(Corpus.open(corpus.path), "audio")
