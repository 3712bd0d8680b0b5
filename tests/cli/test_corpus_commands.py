import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerc.cli.main import run
from mmerc.corpus import SCHEMA, Corpus
from mmerc.manifest import seal

ROWS = pd.DataFrame(
    {
        "conv": ["a", "a", "a", "b", "b", "c", "c"],
        "speaker": ["Ann", "Ben", "Ann", "Ben", "Ann", "Ann", "Ben"],
        "text": ["Hello.", "[bold]Hi[/] :smile:", "So?", "No!", "Yes.", "Well", "Fine."],
        "emotion": ["joy", "sad", "joy", "sad", "joy", "sad", "joy"],
        "split": ["train", "train", "train", "dev", "dev", "test", "test"],
    }
)
MAPPED = ["--column", "dialogue_id=conv", "--column", "label=emotion"]


@pytest.fixture
def mmerc(monkeypatch, capsys):
    """Run a command line as the installed script does: (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mmerc", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def source(tmp_path):
    ROWS.to_csv(tmp_path / "u.csv", index=False)
    np.save(tmp_path / "audio.npy", np.ones((7, 3)))
    return tmp_path


def _imported(mmerc, source):
    code, out, err = mmerc(
        "corpus", "import", "table", source / "u.csv", *MAPPED,
        "--features", f"audio={source / 'audio.npy'}", "--out", source / "mine",
    )  # fmt: skip
    assert code == 0, err
    return source / "mine", out


def _spoil(folder, **cells):
    table = Corpus.open(folder).utterances.copy()
    for column, (row, value) in cells.items():
        table.loc[row, column] = value
    pq.write_table(pa.Table.from_pandas(table, SCHEMA), folder / "utterances.parquet")
    seal(folder)


def test_an_import_says_what_it_read_and_what_comes_next(mmerc, source):
    folder, out = _imported(mmerc, source)
    assert "7 utterances in 3 dialogues" in out
    assert "train 1/3, validation 1/2, test 1/2" in out
    assert "dialogue_id from conv" in out
    assert "audio: 3 features, present in 100.0%" in out
    assert f"next: mmerc corpus encode-text {folder}" in out


def test_check_of_a_sound_corpus_exits_with_0(mmerc, source):
    folder, _ = _imported(mmerc, source)
    code, out, _ = mmerc("corpus", "check", folder)
    assert code == 0
    assert "0 errors, 0 warnings" in out
    assert [line.split() for line in out.splitlines() if line.startswith("train")] == [
        ["train", "2", "1", "3"]
    ]


def test_check_exits_with_1_on_errors_and_with_2_on_what_is_no_corpus(mmerc, source):
    folder, _ = _imported(mmerc, source)
    _spoil(folder, label=(4, "jou"), text=(2, ""))
    code, out, _ = mmerc("corpus", "check", folder)
    assert code == 1
    assert "unknown label 'jou'" in out
    assert "1 error, 2 warnings" in out  # empty text; test lost its only utterance of that label
    code, out, err = mmerc("corpus", "check", source)
    assert (code, out) == (2, "")
    assert "is not a corpus folder" in err


def test_a_deep_check_names_the_damaged_file(mmerc, source):
    folder, _ = _imported(mmerc, source)
    assert mmerc("corpus", "check", "--deep", folder)[0] == 0
    path = folder / "features" / "audio.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    code, out, _ = mmerc("corpus", "check", "--deep", folder)
    assert code == 1
    assert "audio.safetensors is damaged: its checksum" in " ".join(out.split())
    assert "1 files" not in mmerc("corpus", "seal", folder)[1]
    assert mmerc("corpus", "check", "--deep", folder)[0] == 0


def test_check_as_json_holds_everything(mmerc, source):
    folder, _ = _imported(mmerc, source)
    _spoil(folder, label=(4, "jou"))
    code, out, _ = mmerc("corpus", "check", folder, "--json")
    report = json.loads(out)
    assert code == 1
    assert report["problems"][0]["row"] == 4
    assert report["problems"][0]["field"] == "label"
    assert report["class_counts"]["train"] == {"joy": 2, "sad": 1}


def test_check_shows_the_first_problems_and_all_on_request(mmerc, tmp_path):
    frame = pd.DataFrame({"dialogue_id": [f"d{i}" for i in range(60)], "text": ["x"] + [""] * 59})
    frame.assign(label=["p", "q"] * 30, fold=[0] * 30 + [1] * 30).to_csv(tmp_path / "u.csv", index=False)
    assert mmerc("corpus", "import", "table", tmp_path / "u.csv", "--out", tmp_path / "c")[0] == 0
    code, out, _ = mmerc("corpus", "check", tmp_path / "c")
    assert code == 0
    assert out.count("empty text") == 50
    assert "… and 9 more" in out
    assert mmerc("corpus", "check", tmp_path / "c", "--all")[1].count("empty text") == 59


def test_show_describes_the_corpus(mmerc, source):
    folder, _ = _imported(mmerc, source)
    code, out, _ = mmerc("corpus", "show", folder)
    assert code == 0
    assert "labels: joy, sad" in out
    assert "kind imported, file audio.npy" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["train"] == ["1", "3", "2", "3", "3", "3"]
    assert rows["all"] == ["3", "7", "2", "2", "2", "3"]


def test_show_prints_a_conversation_as_it_is(mmerc, source):
    folder, _ = _imported(mmerc, source)
    code, out, _ = mmerc("corpus", "show", folder, "--dialogue", "a")
    assert code == 0
    assert "[bold]Hi[/] :smile:" in out
    code, _, err = mmerc("corpus", "show", folder, "--dialogue", "A")
    assert code == 2
    assert "did you mean 'a'?" in err


def test_an_existing_corpus_is_replaced_only_by_force(mmerc, source):
    folder, _ = _imported(mmerc, source)
    before = (folder / "utterances.parquet").stat().st_ino
    command = ["corpus", "import", "table", source / "u.csv", *MAPPED, "--out", folder]
    code, _, err = mmerc(*command)
    assert code == 2
    assert "--force" in err
    assert (folder / "utterances.parquet").stat().st_ino == before
    assert mmerc(*command, "--force")[0] == 0
    assert Corpus.open(folder).modalities == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{dir}/missing.csv", "--out", "{dir}/x"], "does not exist"),
        (["{dir}/u.csv", "--out", "{dir}/x"], "no column 'dialogue_id'"),
        (["{dir}/u.csv", "--out", "{dir}"], "lies inside"),
        (["{dir}/u.csv", "--out", "{dir}/u.csv/x"], "cannot be written"),
        (["{dir}/u.csv", "--out", "{dir}/x", "--features", "audio"], "NAME=VALUE"),
        (["{dir}/u.csv", "--out", "{dir}/x", "--column", "text=a", "--column", "text=b"], "given twice"),
        (["{dir}/u.csv", "--out", "{dir}/x", *MAPPED, "--features", "audio={dir}/no.npy"], "does not exist"),
    ],
)
def test_mistakes_end_with_exit_code_2_and_nothing_written(mmerc, source, arguments, message):
    before = sorted(source.iterdir())
    code, out, err = mmerc("corpus", "import", "table", *(a.format(dir=source) for a in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(source.iterdir()) == before


def test_meld_imports(mmerc, tmp_path):
    header = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID,StartTime,EndTime\n"
    (tmp_path / "dev_sent_emo.csv").write_text(
        header + 'Hi,Joey,joy,0,0,"00:00:01,000","00:00:02,000"\n', encoding="utf-8"
    )
    code, out, _ = mmerc("corpus", "import", "meld", tmp_path, "--out", tmp_path / "meld")
    assert code == 0
    assert "read dev_sent_emo.csv" in out
    assert Corpus.open(tmp_path / "meld").dialogue_ids == ["validation_0"]


def test_scripted_imports_and_checks(mmerc, tmp_path):
    folder = tmp_path / "scripted"
    assert mmerc("corpus", "import", "scripted", "--out", folder, "--dialogues", "12", "--seed", "3")[0] == 0
    assert len(Corpus.open(folder).dialogue_ids) == 12
    assert mmerc("corpus", "check", folder)[0] == 0


def test_a_pickle_of_anything_else_is_refused(mmerc, tmp_path):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(subprocess.Popen))
    code, _, err = mmerc("corpus", "import", "pickle", tmp_path / "p.pkl", "--out", tmp_path / "c")
    assert code == 2
    assert "subprocess.Popen" in err


def test_encode_text_stores_vectors_and_their_recipe(mmerc, source):
    folder, _ = _imported(mmerc, source)
    code, out, err = mmerc("corpus", "encode-text", folder)
    assert code == 0, err
    assert "text: 2304 features, present in 100.0%" in out
    assert f"mmerc train df-erc --corpus {folder}" in out
    corpus = Corpus.open(folder)
    assert list(corpus.modalities) == ["audio", "text"]
    assert corpus.modalities["text"].recipe["encoder"] == "minilm"
    code, _, err = mmerc("corpus", "encode-text", folder)
    assert code == 2
    assert "--force" in err
    assert mmerc("corpus", "encode-text", folder, "--name", "../x")[0] == 2


@settings(deadline=None, max_examples=25)
@given(content=st.binary(max_size=100), suffix=st.sampled_from([".csv", ".jsonl"]))
def test_random_bytes_never_end_in_a_traceback(tmp_path_factory, content, suffix):
    folder = tmp_path_factory.mktemp("random")
    (folder / f"u{suffix}").write_bytes(content)
    command = ["mmerc", "corpus", "import", "table", str(folder / f"u{suffix}"), "--out", "x"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            run()
    assert stop.value.code == 2


def test_help_loads_nothing_heavy():
    code = (
        "import sys, mmerc.cli.main; "
        "sys.exit(' '.join(m for m in ('torch', 'pandas', 'numpy', 'pyarrow') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
