"""Many files: which are found, which are made again, and what stays when things go wrong."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from holding import holder
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError, ConversationError, MmercError
from mmerc.extraction.engines import in_turn
from mmerc.predictions import Input, Outcome, Setup, find_inputs, predict_files
from mmerc.predictions import work as working
from mmerc.predictions.index import INDEX, read_index
from mmerc.recognizer import load
from mmerc.training import train
from mmerc.transcripts import read_transcript, write_predictions
from tiny import config, task, write


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(tmp_path_factory.mktemp("made") / "corpus")


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config(epochs=1)), out)
    return out


@pytest.fixture
def chats(corpus: Corpus, tmp_path: Path) -> Path:
    """A folder of three conversations with feature vectors."""
    folder = tmp_path / "chats"
    folder.mkdir()
    for number, name in enumerate(("one", "two", "three")):
        write_chat(folder / f"{name}.jsonl", corpus, number)
    return folder


def write_chat(path: Path, corpus: Corpus, number: int) -> None:
    rows = [
        {"text": u.text, "features": {m: x.tolist() for m, x in u.features.items()}}
        for u in corpus.conversation(number)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def became(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {o.given.path.stem: "kept" if o.kept else "failed" if o.error else "made" for o in outcomes}


def again(chats: Path, setup: Setup, **options: Any) -> dict[str, str]:
    return became(list(predict_files(find_inputs([chats]), setup, **options)))


ALL = ("one", "two", "three")


# What is found


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("Ann: hi\n", encoding="utf-8")
    return [folder / name for name in names]


def test_files_and_folders(tmp_path: Path) -> None:
    a, b, odd = touch(tmp_path, "in/a.txt", "in/b.SRT", "odd")
    touch(tmp_path, "in/.hidden.txt", "in/notes.pdf", "in/deeper/c.txt", f"in/{INDEX}")
    assert find_inputs([odd, a, tmp_path / "in", a]) == [Input(odd), Input(a), Input(b)]


def test_a_recording_and_the_transcript_beside_it(tmp_path: Path) -> None:
    film, srt, _, other = touch(tmp_path, "film.mp4", "film.srt", "film.txt", "talk.csv")
    assert find_inputs([tmp_path]) == [Input(srt, film), Input(other)]
    assert find_inputs([film]) == find_inputs([srt, film]) == [Input(srt, film)]
    assert find_inputs([srt]) == [Input(srt)]
    (whisper,) = touch(tmp_path, "film.json")
    assert find_inputs([film]) == [Input(whisper, film)]
    assert find_inputs([film, srt]) == [Input(srt, film)]  # the one that is named


def test_what_is_not_found(tmp_path: Path) -> None:
    (lonely,) = touch(tmp_path, "lonely.wav")
    with pytest.raises(ConversationError, match=r"gone\.txt does not exist"):
        find_inputs([tmp_path / "gone.txt"])
    with pytest.raises(ConversationError, match=r"lonely\.wav has no transcript beside it: put lonely\.srt"):
        find_inputs([lonely])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversationError, match="empty holds neither transcripts nor recordings"):
        find_inputs([tmp_path / "empty"])


# What is written


def test_each_result_is_that_of_its_file_alone(chats: Path, trained: Path, tmp_path: Path) -> None:
    recognizer = load(trained, "cpu")
    forms: tuple[Literal["json", "csv"], ...] = ("json", "csv")
    for form in forms:
        out = tmp_path / "out" / form
        outcomes = list(predict_files(find_inputs([chats]), Setup(out, trained, form)))
        assert became(outcomes) == dict.fromkeys(ALL, "made")
        assert {p.name for p in out.iterdir()} == {INDEX, *(f"{name}.{form}" for name in ALL)}
        for name in ALL:
            found = recognizer.predict_many(read_transcript(chats / f"{name}.jsonl"))
            text = (out / f"{name}.{form}").read_text(encoding="utf-8")
            assert text == write_predictions(found, form)
    (first, *_) = outcomes
    assert first.utterances >= first.present["text"] > 0


def test_what_is_there_stays(chats: Path, trained: Path, corpus: Corpus, tmp_path: Path) -> None:
    setup = Setup(tmp_path / "out", trained)
    again(chats, setup)
    before = {p: p.stat().st_mtime_ns for p in setup.out.glob("*.json")}
    assert again(chats, setup) == dict.fromkeys(ALL, "kept")
    assert {p: p.stat().st_mtime_ns for p in setup.out.glob("*.json")} == before
    write_chat(chats / "two.jsonl", corpus, 5)  # another content
    (setup.out / "one.json").write_text("[]", encoding="utf-8")  # damaged
    (setup.out / "three.json").unlink()
    write_chat(chats / "four.jsonl", corpus, 6)
    assert again(chats, setup) == dict.fromkeys((*ALL, "four"), "made")
    assert again(chats, setup) == dict.fromkeys((*ALL, "four"), "kept")
    assert again(chats, setup, force=True) == dict.fromkeys((*ALL, "four"), "made")
    assert again(chats, setup._replace(format="csv")) == dict.fromkeys((*ALL, "four"), "made")
    assert again(chats, setup) == dict.fromkeys((*ALL, "four"), "kept")


def test_another_checkpoint_predicts_anew(chats: Path, trained: Path, corpus: Corpus, tmp_path: Path) -> None:
    setup = Setup(tmp_path / "out", trained)
    again(chats, setup)
    first = (setup.out / "one.json").read_bytes()
    train(task(corpus, config(epochs=1), seed=1), tmp_path / "other")
    assert again(chats, setup._replace(checkpoint=tmp_path / "other")) == dict.fromkeys(ALL, "made")
    assert (setup.out / "one.json").read_bytes() != first


def test_cut_at_any_moment_it_goes_on(chats: Path, trained: Path, tmp_path: Path) -> None:
    setup = Setup(tmp_path / "out", trained)
    outcomes = predict_files(find_inputs([chats]), setup)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    (setup.out / "three.json").write_text("written, but not yet in the index", encoding="utf-8")
    (setup.out / ".two.json.123.tmp").write_text("half", encoding="utf-8")
    with (setup.out / INDEX).open("a", encoding="utf-8") as index:
        index.write('{"result": "tw')
    left = again(chats, setup)
    assert sorted(left.values()) == ["kept", "made", "made"]
    assert again(chats, setup) == dict.fromkeys(ALL, "kept")
    assert {p.name for p in setup.out.iterdir()} == {INDEX, *(f"{name}.json" for name in ALL)}


def test_results_beside_the_transcripts(chats: Path, trained: Path) -> None:
    setup = Setup(chats, trained)
    assert again(chats, setup) == dict.fromkeys(ALL, "made")
    assert again(chats, setup) == dict.fromkeys(ALL, "kept")  # results are no transcripts
    (film,) = touch(chats, "one.mp4")
    assert find_inputs([film]) == [Input(chats / "one.jsonl", film)]


def test_a_bad_file_stops_nothing(chats: Path, trained: Path, tmp_path: Path) -> None:
    setup = Setup(tmp_path / "out", trained)
    again(chats, setup)
    (chats / "two.jsonl").write_text("{", encoding="utf-8")
    outcomes = list(predict_files(find_inputs([chats]), setup))
    assert became(outcomes) == {"one": "kept", "two": "failed", "three": "kept"}
    assert ["line 1: not JSON" in (o.error or "") for o in outcomes].count(True) == 1
    assert not (setup.out / "two.json").exists()  # which was of another content


# What is refused before any work


def test_names_that_meet(tmp_path: Path, trained: Path) -> None:
    out = Setup(tmp_path / "out", trained)

    def refused(setup: Setup, *names: str) -> str:
        inputs = find_inputs(touch(tmp_path, *names))
        with pytest.raises(ConfigError) as error:
            list(predict_files(inputs, setup))
        return str(error.value)

    assert "x/a.txt and" in (said := refused(out, "x/a.txt", "x/a.srt"))
    assert said.endswith("rename one of them, or predict them into different folders")
    assert "would both be written to" in refused(out, "x/a.txt", "y/A.txt")
    assert "a.json would be overwritten, which is read" in refused(Setup(tmp_path / "x", trained), "x/a.json")
    assert not (tmp_path / "out").exists()
    touch(tmp_path, "out/b.json")
    assert f"{INDEX} beside it does not say that it is a result" in refused(out, "x/b.txt")
    assert (tmp_path / "out/b.json").read_text(encoding="utf-8") == "Ann: hi\n"


def test_force_overwrites_what_is_somebody_elses(chats: Path, trained: Path, tmp_path: Path) -> None:
    setup = Setup(tmp_path / "out", trained)
    touch(setup.out, "one.json")
    assert again(chats, setup, force=True) == dict.fromkeys(ALL, "made")
    assert again(chats, setup) == dict.fromkeys(ALL, "kept")


def test_a_checkpoint_or_a_file_that_is_missing(chats: Path, tmp_path: Path, trained: Path) -> None:
    with pytest.raises(MmercError, match="is not a checkpoint folder"):
        again(chats, Setup(tmp_path / "out", tmp_path / "gone"))
    files = working.Files(weights=tmp_path / "gone.pt")
    with pytest.raises(MmercError, match=r"gone\.pt does not exist"):
        again(chats, Setup(tmp_path / "out", trained, files=files))
    assert not (tmp_path / "out").exists()


def test_a_folder_is_one_process_at_a_time(chats: Path, trained: Path, tmp_path: Path) -> None:
    setup = Setup(tmp_path / "out", trained)
    setup.out.mkdir()
    in_use = pytest.raises(ConfigError, match="is in use by process")
    with holder(setup.out), in_use:
        again(chats, setup)


# When a file is more than bad


def test_a_file_that_vanishes_or_kills_its_worker(chats: Path, trained: Path, tmp_path: Path) -> None:
    def engine(work: Callable[[Input], Outcome], inputs: Sequence[Input]) -> Iterator[tuple[Input, Any]]:
        for given in inputs:
            if given.path.stem == "two":
                yield given, MmercError("its worker died")
            else:
                yield from in_turn(work, [given])

    inputs = find_inputs([chats])
    (chats / "one.jsonl").unlink()
    setup = Setup(tmp_path / "out", trained)
    outcomes = list(predict_files(inputs, setup, engine))
    assert became(outcomes) == {"one": "failed", "two": "failed", "three": "made"}
    told = {o.given.path.stem: o.error for o in outcomes}
    assert "No such file" in (told["one"] or "")
    assert told["two"] == "its worker died"
    assert {name for name, entry in read_index(setup.out).items() if entry.sha256} == {"three.json"}
