"""A folder with every kind of damage: the doctor finds each of them, and nothing else."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from mmerc.cli.corpus import app
from mmerc.corpora.clips import import_clips
from mmerc.corpora.iemocap import import_iemocap
from mmerc.corpora.meld_raw import KNOWN_BROKEN, import_meld_raw
from mmerc.corpora.recording import import_recordings
from mmerc.corpus import Corpus
from mmerc.errors import CorpusError
from mmerc.extraction.cache import Cache
from mmerc.extraction.doctor import KINDS, Examination, examine
from mmerc.extraction.engines import in_turn
from mmerc.extraction.measuring import Meter
from mmerc.extraction.symptoms import Case, Part, notes
from mmerc.extraction.work import BEYOND
from mmerc.features.diagnosis import FaceCount, Health, Heard
from mmerc.features.media_file import MediaInfo, SoundInfo
from mmerc.features.recipe import LONGEST_S, SAMPLE_RATE, Look, Measured
from mmerc.manifest import seal
from mmerc.media import Source
from screenplay import ANNA, BEN, CLEO, RECORDING, Line, Script, Shot
from studio import film, shared, write_srt

pytestmark = pytest.mark.slow

TEXT = "No, I have heard enough."
SAID = Line(BEN, TEXT, 0.1)
HURRIED = "I hurt three huge men, I gave a guy a bloody nose, I mean I am not proud of it, but I really am."


def script(*lines: Line, length_s: float = 2.0, faces: bool = True) -> Script:
    return Script(lines or (SAID,), (Shot(0, (BEN,) if faces else ()),), length_s)


def remux(source: Path, out: Path, sound_s: float = 60.0, **options: str) -> None:
    """Copy a recording, its sound up to a time."""
    with av.open(str(source)) as old, av.open(str(out), "w", options=options) as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is not None and (
                packet.stream.type == "video" or packet.pts * packet.time_base < sound_s
            ):
                packet.stream = streams[packet.stream.index]
                new.mux(packet)


def build_ward(folder: Path) -> None:
    """Write the clips and their table."""
    folder.mkdir()
    long = script(*(Line(CLEO, RECORDING.lines[5].text, 0.1 + 2.9 * k) for k in range(2)), length_s=6.0)
    scripts = {
        "healthy": script(), "other": script(Line(ANNA, TEXT, 0.2)),
        "silent": script(replace(SAID, voiced=False)), "clipped": script(*[SAID] * 8),
        "longer": script(length_s=4.0), "shorter": script(length_s=0.9), "hurried": script(),
        "wordless": long, "faceless": script(faces=False), "truncated": script(),
        "broken_off": script(length_s=3.0), "uneven": script(), "mute": script(),
    }  # fmt: skip
    for name, one in scripts.items():
        film(folder / f"{name}.mp4", one, width=160, height=120, fps=5, sound=name != "mute")
    for name, how in (("uneven", {"sound_s": 1.0}), ("broken_off", {"movflags": "faststart"})):
        (folder / f"{name}.mp4").rename(folder / f"{name}.whole")
        remux(folder / f"{name}.whole", folder / f"{name}.mp4", **how)
        (folder / f"{name}.whole").unlink()
    for name, share in (("truncated", 0.7), ("broken_off", 0.6)):
        content = (folder / f"{name}.mp4").read_bytes()
        (folder / f"{name}.mp4").write_bytes(content[: round(share * len(content))])
    (folder / "empty.mp4").touch()
    (folder / "words.mp4").write_text("This is no film.\n" * 50, encoding="utf-8")
    (folder / "lost.mp4").write_bytes((folder / "healthy.mp4").read_bytes())
    rows = [
        (f"{name}.mp4", "Ben", HURRIED if name == "hurried" else "Hey!" if name == "wordless" else TEXT)
        for name in [*scripts, "empty", "words", "lost", "missing"]
    ]
    table = pd.DataFrame(rows, columns=["media", "speaker", "text"])
    table["dialogue_id"] = [f"d{row // 6}" for row in range(len(rows))]
    table["split"] = table["dialogue_id"].map({"d0": "train", "d1": "validation", "d2": "test"})
    lengths = {f"{name}.mp4": 1000 * one.length_s for name, one in scripts.items()}
    lengths |= {"longer.mp4": 1900, "shorter.mp4": 2900}
    table["start_ms"] = 5000
    table["end_ms"] = 5000 + table["media"].map(lengths).fillna(2000).astype(int)
    table["label"] = ["joy", "anger"] * (len(rows) // 2) + ["joy"] * (len(rows) % 2)
    table.to_csv(folder / "table.csv", index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared(tmp_path_factory, "ward", build_ward)


@pytest.fixture(scope="module")
def ward(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    mine = tmp_path_factory.mktemp("doctor")
    media = mine / "media"
    media.mkdir()
    for file in folder.iterdir():
        (media / file.name).hardlink_to(file)
    corpus = import_clips(media, mine / "corpus")
    (media / "lost.mp4").unlink()  # after the import
    return corpus


def examined(corpus: Corpus, cache: Path | None = None) -> Examination:
    with Cache(cache) as kept:
        return examine(corpus, Meter(in_turn, kept))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "features.sqlite"


@pytest.fixture(scope="module")
def examination(ward: Corpus, cache: Path) -> Examination:
    return examined(ward, cache)


EXPECTED = {  # everything else is healthy
    "silent": "silent",
    "clipped": "clipped",
    "longer": "over-long",
    "shorter": "cut short",
    "hurried": "text mismatch",
    "wordless": "text mismatch",
    "faceless": "no face",
    "truncated": "corrupt",
    "broken_off": "incomplete",
    "uneven": "lengths differ",
    "mute": "no sound",
    "empty": "corrupt",
    "words": "corrupt",
    "lost": "missing",
    "missing": "missing",
}


def kinds_of(found: Examination, corpus: Corpus) -> dict[str, str]:
    """Return what is found of which file."""
    media = corpus.utterances["media"]
    return {Path(media[row]).stem: finding.kind for finding in found.problems for row in finding.rows}


def test_each_damage_is_found_and_nothing_else(ward: Corpus, examination: Examination) -> None:
    assert kinds_of(examination, ward) == EXPECTED
    assert len(examination.problems) == len(EXPECTED)
    for finding in examination.problems:
        assert finding.severity == ("error" if finding.kind in ("missing", "corrupt") else "warning")
        assert (finding.row,) == finding.rows
        assert examination.table["findings"][finding.row] == [finding.kind]
        if finding.kind != "no face":
            assert finding.file == ward.utterances["media"][finding.row]
            assert finding.file in finding.message
    order = [(finding.severity, KINDS.index(finding.kind)) for finding in examination.problems]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("name", "field", "said"),
    [
        ("silent", "audio_file", "silent (-90 dB)"),
        ("clipped", "audio_file", "of the samples are cut off"),
        ("longer", "media", "lasts 4.0 s, by the transcript's times 1.9 s"),
        ("shorter", "media", "lasts 0.9 s, by the transcript's times 2.9 s"),
        ("hurried", "text", "69 letters in 1.5 s of speech"),
        ("wordless", "text", "3 letters in 5."),
        ("empty", "media", "is empty (0 bytes)"),
        ("words", "media", "cannot be read as sound or video"),
        ("broken_off", "media", "of 3.0 s of the sound can be decoded"),
        ("uneven", "media", "the sound ends after 1.0 s, the pictures after 2.0 s"),
        ("mute", "audio_file", "has no sound"),
        ("lost", "media", "does not exist"),
        ("missing", "media", "was not there when the corpus was imported"),
    ],
)
def test_a_finding_says_what_where(
    ward: Corpus, examination: Examination, name: str, field: str, said: str
) -> None:
    (row,) = ward.utterances.index[ward.utterances["media"] == f"{name}.mp4"]
    (finding,) = [finding for finding in examination.problems if finding.row == row]
    assert finding.field == field
    assert said in finding.message


def test_the_table_has_what_was_measured(examination: Examination) -> None:
    table = examination.table.set_index("audio_file")
    healthy = table.loc["healthy.mp4"]
    assert (healthy["pictures"], healthy["with_face"], healthy["faces"]) == (4, 4, 1)
    assert healthy["face_height"] == pytest.approx(0.5, abs=0.05)
    assert healthy["seconds"] == pytest.approx(2, abs=0.05)
    assert healthy["visual_length_s"] == 2
    length_s = SAID.end_s - SAID.start_s
    assert healthy["active"] * healthy["seconds"] == pytest.approx(length_s, rel=0.2)
    assert table.loc["mute.mp4", "audio_not_measured"].endswith("has no sound")
    assert pd.isna(table.loc["mute.mp4", "level_db"])
    assert table["group"].value_counts().to_dict() == {"train": 6, "validation": 6, "test": 5}


def test_the_second_run_takes_everything_from_the_cache(
    ward: Corpus, examination: Examination, cache: Path
) -> None:
    asked: set[str] = set()

    def engine(work: Any, jobs: Any) -> Iterator[Any]:
        asked.update(job.file.stem for job in jobs)
        return in_turn(work, jobs)

    with Cache(cache) as kept:
        again = examine(ward, Meter(engine, kept))
    assert asked == {"truncated", "mute", "empty", "words", "lost"}  # what failed is tried again
    pd.testing.assert_frame_equal(again.table, examination.table)
    assert again.problems == examination.problems


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_command(ward: Corpus, cache: Path) -> None:
    before = contents(ward.path.parent)
    options = ["check", str(ward.path), "--media", "--cache", str(cache), "--jobs", "1"]
    run = CliRunner(env={"COLUMNS": "200"})
    plain, full, document, bare = (
        run.invoke(app, arguments)
        for arguments in (options, [*options, "--all"], [*options, "--json"], ["check", str(ward.path)])
    )
    assert (plain.exit_code, full.exit_code, document.exit_code, bare.exit_code) == (1, 1, 1, 0)
    words = [line.split() for line in plain.stdout.splitlines()]
    assert ["text", "mismatch", "warning", "2"] in words
    assert ["nothing", "found", "2"] in words
    assert ["validation", "6", "5", "80.0%", "0.80", "49%"] in words
    assert "5 errors, 10 warnings" in plain.stdout
    assert "wordless.mp4: 3 letters in" in full.stdout
    report = json.loads(document.stdout)
    told = {(p["kind"], p["file"], *p["rows"]) for p in report["problems"]}
    assert ("silent", "silent.mp4", 2) in told
    assert ("missing", "missing.mp4", 16) in told
    assert [len(utterance["findings"]) for utterance in report["media"]] == [0, 0, *[1] * 15]
    assert report["media"][16]["audio_file"] is None
    assert "media" not in json.loads(run.invoke(app, ["check", str(ward.path), "--json"]).stdout)
    assert "silent" not in bare.stdout
    assert contents(ward.path.parent) == before


def test_media_that_were_moved(ward: Corpus, folder: Path, cache: Path) -> None:
    run = CliRunner().invoke(
        app,
        [
            "check",
            str(ward.path),
            "--media-root",
            str(folder),
            "--cache",
            str(cache),
            "--jobs",
            "1",
            "--json",
        ],
    )
    found = {problem["file"]: problem["kind"] for problem in json.loads(run.stdout)["problems"]}
    assert "lost.mp4" not in found
    assert found["truncated.mp4"] == "corrupt"
    with pytest.raises(CorpusError, match="--media-root"), Cache(None) as kept:
        examine(ward, Meter(in_turn, kept), folder / "elsewhere")


def test_a_recording_is_found_as_it_was_filmed(recording: Path, tmp_path: Path) -> None:
    """Line 4 is not voiced; during line 2 a slide is shown; the last ones come after the end."""
    late = Line(ANNA, TEXT, 22.5), Line(BEN, TEXT, 40.0)
    write_srt(tmp_path / "r.srt", replace(RECORDING, lines=(*RECORDING.lines, *late)))
    found = examined(import_recordings([(recording, tmp_path / "r.srt")], tmp_path / "corpus"))
    assert [(finding.kind, finding.rows) for finding in found.problems] == [
        ("times", (7,)),
        ("times", (8,)),
        ("silent", (4, 7)),
        ("no face", (2,)),
    ]
    assert "ends at " in found.problems[0].message
    assert "starts at 40000 ms, after the end of the file at 23" in found.problems[1].message
    assert found.table["faces"].iloc[3] == pytest.approx(2)


def test_copies_of_the_corpora_are_healthy(meld_raw: Path, iemocap_release: Path, tmp_path: Path) -> None:
    assert examined(import_meld_raw(meld_raw, tmp_path / "meld")).problems == []
    assert examined(import_iemocap(iemocap_release, tmp_path / "iemocap")).problems == []


def test_clips_of_meld_that_are_known_to_be_broken(meld_raw: Path, tmp_path: Path) -> None:
    clip = meld_raw / "train/train_splits/dia0_utt0.mp4"
    root = tmp_path / "raw"
    names = {
        "train/train_splits": [(0, 0), (793, 0)],
        "dev/dev_splits_complete": [(793, 0), (110, 7)],
        "test/output_repeated_splits_test": [(38, 4)],
    }
    header = (meld_raw / "train/train_sent_emo.csv").read_text(encoding="utf-8").splitlines()[0]
    for place, clips in names.items():
        split = place.split("/")[0]
        (root / place).mkdir(parents=True)
        rows = [
            f'1,"I got the job!",Anna,joy,positive,{d},{u},1,1,"00:00:01,000","00:00:02,500"'
            for d, u in clips
        ]
        (root / split / f"{split}_sent_emo.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
        for dialogue, number in clips:
            shutil.copyfile(clip, root / place / f"dia{dialogue}_utt{number}.mp4")
    second = root / "test/output_repeated_splits_test/final_videos_testdia38_utt4.mp4"
    shutil.copyfile(clip, second)
    (root / "dev/dev_splits_complete/dia110_utt7.mp4").unlink()

    found = examined(import_meld_raw(root, tmp_path / "corpus")).problems
    assert [(finding.kind, finding.rows) for finding in found] == [
        ("missing", (2,)),
        ("known broken", (1,)),
        ("known broken", (2,)),
        ("known broken", (4,)),
    ]
    reasons = [KNOWN_BROKEN["train", "dia793_utt0"], KNOWN_BROKEN["validation", "dia110_utt7"]]
    for finding, reason in zip(found[1:], reasons, strict=False):
        assert reason in finding.message
    other = examined(import_meld_raw(root, tmp_path / "others", second_versions=True)).problems
    assert [finding.rows for finding in other] == [(2,), (1,), (2,)]


def case(row: int = 0, text: str = TEXT, told_s: float | None = None, **changes: Any) -> Case:
    """Return an utterance with 10 s of clear sound at the start of a file of 10 s, and changes of it."""
    length_s = changes.pop("length_s", 10.0)
    source = Source(Path("a.wav"), **{k: v for k, v in changes.items() if k in Source._fields})
    heard = Heard(seconds=min(length_s, LONGEST_S), level_db=-20, peak=0.5, clipped=0, active=0.5)
    heard = heard._replace(**{k: v for k, v in changes.items() if k in Heard._fields})
    info = MediaInfo("wav", SoundInfo(round(1000 * length_s), 16_000, 1, "pcm_s16le"), None)
    part = Part("sound", source, info, changes.get("measured", Measured(np.array(heard, np.float32))))
    return Case(row, text, "a.wav", told_s, part, None)


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"told_s": 7.0}, []),
        ({"told_s": 5.0}, ["over-long"]),
        ({"told_s": 30.0}, ["cut short"]),
        ({"length_s": 61.0, "text": HURRIED}, ["over-long"]),
        ({"seconds": 9.6}, []),
        ({"seconds": 9.0}, ["incomplete"]),
        ({"measured": BEYOND}, ["incomplete"]),
        ({"measured": Measured(None, "its worker died")}, ["corrupt"]),
        ({"level_db": -61.0, "active": 0.0}, ["silent"]),
        ({"clipped": 0.009}, []),
        ({"clipped": 0.011}, ["clipped"]),
        ({"text": "No!"}, ["text mismatch"]),
        ({"text": ""}, []),
        ({"text": "…?!"}, []),
        ({"text": "No!", "active": 0.1}, []),  # long, but there is little speech in it
        ({"text": "No!", "length_s": 4.0, "active": 1.0}, []),
        ({"active": 0.05, "text": 21 * "a"}, []),
        ({"active": 0.05, "text": 22 * "a"}, ["text mismatch"]),
        ({"start_ms": 4000, "end_ms": 4000, "measured": BEYOND}, ["times"]),
        ({"start_ms": 4000, "end_ms": 3000, "measured": BEYOND}, ["times"]),
        ({"start_ms": 9000, "end_ms": 10_400, "seconds": 1.0}, []),
        ({"start_ms": 9000, "end_ms": 10_600, "seconds": 1.0}, ["times"]),
        ({"start_ms": 11_000, "end_ms": 12_000, "measured": BEYOND}, ["times"]),
    ],
)
def test_limits(changes: dict[str, Any], kinds: list[str]) -> None:
    assert [note.kind for note in notes([case(**changes)], Path())] == kinds


def test_parts_of_one_file_are_not_compared_with_the_transcript() -> None:
    both = [case(row, told_s=2.0) for row in range(2)]
    assert not list(notes(both, Path()))


def test_what_a_file_lacks_is_one_finding() -> None:
    info = MediaInfo("wav", None, None)
    silent = [c._replace(sound=c.sound and c.sound._replace(info=info)) for c in map(case, range(3))]
    found = list(notes(silent, Path()))
    assert {note[1:] for note in found} == {found[0][1:]}
    assert [note.row for note in found] == [0, 1, 2]


def test_containers_that_give_one_length_for_sound_and_pictures(folder: Path, tmp_path: Path) -> None:
    remux(folder / "healthy.mp4", tmp_path / "uneven.mkv", sound_s=1.0)
    remux(folder / "healthy.mp4", tmp_path / "healthy.mkv")
    table = "media,dialogue_id,text,label\nuneven.mkv,d,I have,joy\nhealthy.mkv,d,I have heard,anger\n"
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    (finding,) = examined(import_clips(tmp_path, tmp_path / "corpus")).problems
    assert (finding.kind, finding.row) == ("lengths differ", 0)
    assert "1.0 of 2.0 s of the sound can be decoded" in finding.message


def test_an_utterance_without_pictures_where_others_have_some(ward: Corpus, tmp_path: Path) -> None:
    media = ward.path / "media.parquet"
    folder = tmp_path / "corpus"
    shutil.copytree(ward.path, folder)
    table = pd.read_parquet(media)
    table.loc[[0, 1, 6], ["visual_file"]] = None
    table.to_parquet(folder / "media.parquet")
    seal(folder)
    found = [finding for finding in examined(Corpus.open(folder)).problems if finding.kind == "no pictures"]
    assert [(finding.row, finding.file, finding.rows) for finding in found] == [(None, None, (0, 1, 6))]
    assert found[0].message.endswith(": 3 of 17 utterances, rows 0-1 (d0), 6 (d1)")


@given(arrays(np.float32, st.integers(0, 2000), elements=st.floats(-1, 1, width=32)))
def test_health_of_any_sound_is_reported(samples: np.ndarray) -> None:
    measured = Health()(samples)
    heard = Heard(*measured.values)
    assert np.isfinite(measured.values).all()
    assert 0 <= heard.clipped <= 1
    assert 0 <= heard.active <= 1
    assert heard.seconds == pytest.approx(len(samples) / SAMPLE_RATE)


def test_any_number_of_faces_is_reported() -> None:
    count = FaceCount()
    assert count.describe([], None).values.tolist() == [0, 0, 0, 0]
    looks = [Look(0, ()), Look(500, (0.5, 0.25)), Look(1000, (0.25,))]
    assert count.describe(looks, None).values.tolist() == [3, 2, 1, 0.5]
    assert count.look(np.zeros((60, 80), np.uint8)) == ()
