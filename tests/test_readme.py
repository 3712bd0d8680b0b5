"""What README.md and the pages say can be done can be done: its commands run, its links lead somewhere."""

import json
import pickle
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmerc.cli.main import run
from mmerc.config import read_yaml
from mmerc.models import MODELS, resolve
from mmerc.models.describe import causal_mode
from mmerc.models.labels import corpus_of
from mmerc.shipped import CHAT, CONFIGS
from mmerc.transcripts import read_transcript
from peer_files import make, save
from studio import RECORDING, film, write_csv, write_srt
from tiny import PHRASES, in_this_process, make_bert

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the blocks of code of a page: (language, content)."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


BLOCKS = blocks(README)
REPRODUCE = blocks((ROOT / "docs/reproduce.md").read_text(encoding="utf-8"))


def command_lines(block: str) -> list[list[str]]:
    """Split a block of bash into the words of its commands, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def shortened(words: list[str]) -> list[str]:
    """Return the command with one process, one seed, one epoch and a narrow network."""
    text = re.sub(r" --jobs \d+", " --jobs 1", shlex.join(words))
    text = re.sub(r" --seeds \d+", " --seeds 1", text)
    text = re.sub(r"( --grid [\w.]+=)([^,\s]+)\S*", r"\1\2", text) if words[1] == "sweep" else text
    if words[1] in ("benchmark", "sweep", "ablate"):
        text += " --jobs 1" + " --seeds 1" * ("--seeds" not in text)
    trains = words[1] in ("train", "benchmark", "sweep", "ablate")
    return shlex.split(text) + ["--set", "training.epochs=1", "--set", "network.hidden=8"] * trains


# Stand-ins for what the reader of README.md has: small, and of the same form.


def write_meld(folder: Path) -> None:
    folder.mkdir(parents=True)
    emotions = ("joy", "sadness", "anger")
    for split, dialogues in {"train": 4, "dev": 2, "test": 2}.items():
        rows = [
            {
                "Sr No.": 3 * d + i + 1,
                "Utterance": PHRASES[i],
                "Speaker": ("Joey", "Ross")[i % 2],
                "Emotion": emotions[i],
                "Sentiment": "negative" if i else "positive",
                "Dialogue_ID": d,
                "Utterance_ID": i,
                "Season": 1,
                "Episode": 1,
                "StartTime": f"00:00:0{i},000",
                "EndTime": f"00:00:0{i},900",
            }
            for d in range(dialogues)
            for i in range(3)
        ]
        pd.DataFrame(rows).to_csv(folder / f"{split}_sent_emo.csv", index=False)


def write_table(folder: Path) -> None:
    rows = [
        {
            "conversation": f"c{d}",
            "speaker": ("Ann", "Ben")[i % 2],
            "text": PHRASES[i],
            "label": ("positive", "negative", "neutral")[i],
            "fold": d % 2,
        }
        for d in range(8)
        for i in range(3)
    ]
    pd.DataFrame(rows).to_csv(folder / "utterances.csv", index=False)
    generator = np.random.default_rng(0)
    for modality, width in {"audio": 4, "visual": 3}.items():
        np.save(folder / f"{modality}.npy", generator.normal(size=(len(rows), width)))


def write_pickle(path: Path) -> None:
    # The fields of MMGCN's IEMOCAP_features.pkl, each a table from dialogue to a list with one per utterance.
    generator = np.random.default_rng(0)
    names = [f"Ses0{session}F_impro0{i}" for session in (1, 2, 5) for i in range(1, 6)]
    fields = (
        {d: [f"{d}_F{i:03}" for i in range(6)] for d in names},
        {d: ["F", "M"] * 3 for d in names},
        {d: list(range(6)) for d in names},
        *({d: list(generator.normal(size=(6, width))) for d in names} for width in (5, 4, 3)),
        {d: list(PHRASES) * 2 for d in names},
        {d for d in names if d < "Ses05"},
        {d for d in names if d > "Ses05"},
    )
    path.write_bytes(pickle.dumps(fields))


def write_recordings(folder: Path) -> None:
    short = replace(RECORDING, lines=RECORDING.lines[:2], shots=RECORDING.shots[:2], length_s=7.0)
    (folder / "recordings").mkdir()
    film(folder / "meeting.mp4", short, fps=10)
    write_srt(folder / "meeting.srt", short)
    shutil.copy(folder / "meeting.mp4", folder / "recordings" / "one.mp4")
    write_csv(folder / "recordings" / "one.csv", short)


Shell = Callable[[list[str]], str]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Run a command in the reader's folder; return what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(words: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            run()
        captured = capsys.readouterr()
        assert not stop.value.code, f"{shlex.join(words)}\n{captured.out}\n{captured.err}"
        return captured.out + captured.err

    return call


@pytest.fixture
def reader(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell in a folder that holds all that README.md takes for granted."""
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
    monkeypatch.setattr("mmerc.analysis.drawing.DPI", 40)
    write_meld(tmp_path / "path/to/MELD")
    write_table(tmp_path)
    write_pickle(tmp_path / "IEMOCAP_features.pkl")
    write_recordings(tmp_path)
    # What `mmerc demo` leaves.
    (tmp_path / "demo").mkdir()
    shutil.copy(CHAT, tmp_path / "demo")
    for line in (
        "mmerc corpus import scripted --dialogues 10 --out demo/scripted",
        "mmerc corpus encode-text demo/scripted",
        "mmerc train df-erc --corpus demo/scripted --out demo/df-erc/seed-0"
        " --set training.epochs=1 --set network.hidden=8",
    ):
        shell(line.split())
    return shell


@pytest.mark.slow
def test_the_commands_and_the_python_code_run_in_order(
    reader: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    for language, content in BLOCKS:
        if language == "python":
            exec(compile(content, "README.md", "exec"), {})
            assert len(capsys.readouterr().out.splitlines()) == len(read_transcript(CHAT)[0])
            continue
        for words in command_lines(content):
            if words[0] == "mmerc":
                said = reader(shortened(words))
                left = Path(words[words.index("--out") + 1]).exists() if "--out" in words else bool(said)
                assert left, words


# The pickles that docs/reproduce.md names, and their layouts.
PICKLES = {
    "MELD_features_raw1": "meld-mmgcn",
    "IEMOCAP_features": "iemocap-mmgcn",
    "meld_features_roberta": "meld-cosmic",
    "iemocap_features_roberta": "iemocap-cosmic",
    "meld_multi_features_mmgcn_cosmic": "meld-cfn-esa",
    "iemocap_multi_features_mmgcn_cosmic": "iemocap-sdt",
}


@pytest.mark.slow
def test_the_road_from_the_pickles_to_the_tables_can_be_gone(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
    for name, layout in PICKLES.items():
        save(tmp_path / f"{name}.pkl", make(layout))
    encoder = make_bert(tmp_path / "bert")
    for words in (words for _, content in REPRODUCE for words in command_lines(content)):
        shell(shortened([word.replace("roberta-large", str(encoder)) for word in words]))
        if words[1] == "benchmark":
            corpus = json.loads((tmp_path / words[5] / "corpus.json").read_text(encoding="utf-8"))["name"]
            assert words[4:8:2] == ["--corpora", "--out"]
            table = (tmp_path / words[7] / corpus / "benchmark.md").read_text(encoding="utf-8")
            for model in words[3].split(","):
                assert re.search(rf"^\| {model.replace(':', '-')} ", table, re.MULTILINE), table


def test_the_presets_of_the_road_exist_and_all_are_on_the_page() -> None:
    page = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
    for model, name in (("df-erc", "DF-ERC"), ("mm-dfn", "MM-DFN"), ("cfn-esa", "CFN-ESA")):
        row = re.search(rf"^\| {name} \| .*$", page, re.MULTILINE)
        assert row
        of_corpora = {preset for preset in MODELS[model].presets if corpus_of(preset)}
        assert set(re.findall(r"`([\w-]+)`", row[0])) == of_corpora


def test_every_block_is_checked() -> None:
    commands = [words for language, block in BLOCKS if language == "bash" for words in command_lines(block)]
    assert {language for language, _ in BLOCKS} == {"bash", "python", "bibtex"}
    assert {words[0] for words in commands} == {"mmerc", "pip"}


def test_the_installation_by_hand_is_that_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    makefile = makefile.replace("--quiet ", "").replace('"', "")
    from_clone, from_index = (w for _, block in BLOCKS for w in command_lines(block) if w[0] == "pip")
    assert f"-m {' '.join(from_clone)}\n" in makefile
    assert from_index == ["pip", "install", "mmerc"]


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        indented = re.findall(r"^    make ([\w-]+)(?: +#.*)?$", text, re.MULTILINE)
        assert {*indented, *re.findall(r"`make ([\w-]+)`", text)} <= targets, page
    assert {"demo", "test"} <= set(re.findall(r"^    make (\w+)", README, re.MULTILINE))


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings get on GitHub."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in link:
                continue
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            if not target.exists() or (anchor and anchor not in headings(target)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def test_every_model_is_described() -> None:
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    rows = {match[1]: match[0] for match in re.finditer(r"^\| \[`([\w-]+)`\]\(#\1\).*$", page, re.MULTILINE)}
    assert list(rows) == list(MODELS)
    for model, entry in MODELS.items():
        source = (
            f"| [{entry.paper.venue} {entry.paper.year}]({entry.paper.url}) |" if entry.paper else "| ours |"
        )
        assert source in rows[model]
        assert rows[model].endswith(f"| {causal_mode(entry)} |")


def test_the_configs_resolve() -> None:
    paths = sorted(CONFIGS.glob("*.yaml"))
    assert paths
    for path in paths:
        given = read_yaml(path)
        assert resolve(given["model"], given).model == given["model"], path
