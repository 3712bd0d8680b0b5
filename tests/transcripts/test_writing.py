import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mmerc.conversation import Conversation, Emotion, Prediction, Utterance
from mmerc.explanation import Explanation, Influence
from mmerc.transcripts import read_transcript, render, write_predictions


def predicted() -> Prediction:
    spoken = (
        Utterance("Hi\r[bold]there[/bold]", "Anna", label="joy", start_ms=1000, end_ms=1500),
        Utterance("", "Bob \x1b[31m", start_ms=3_700_000),
    )
    emotions = (
        Emotion("joy", 0.9, {"joy": 0.9, "anger": 0.1}, {"audio": 0.25, "video": None}, 0.75),
        Emotion("anger", 0.4, {"joy": 0.6, "anger": 0.4}, {"audio": 1.0, "video": 0.0}, 0.0),
    )
    return Prediction(Conversation(spoken, id="talk"), emotions)


def bare() -> Prediction:
    return Prediction(Conversation((Utterance("Hi"),)), (Emotion("joy", 0.5, {"joy": 0.5, "anger": 0.5}),))


def terminal(prediction: Prediction, width: int = 120) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(render(prediction))
    return console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO from above


def test_predictions_as_json() -> None:
    assert json.loads(write_predictions([predicted(), bare()], "json")) == [
        predicted().to_dict(),
        bare().to_dict(),
    ]
    assert json.loads(write_predictions([], "json")) == []


def test_predictions_as_csv() -> None:
    table = pd.read_csv(StringIO(write_predictions([predicted(), bare()], "csv"), newline=""))
    assert list(table["dialogue_id"]) == ["talk", "talk", "conversation"]
    assert list(table["turn"]) == [1, 2, 1]
    assert table["text"][0] == "Hi\r[bold]there[/bold]"
    assert list(table["label"]) == ["joy", "anger", "joy"]
    assert list(table["gold"].fillna("")) == ["joy", "", ""]
    assert list(table["probability_anger"]) == [0.1, 0.4, 0.5]
    assert table["contribution_video"].isna().tolist() == [True, False, True]
    assert table["start_ms"].fillna(-1).tolist() == [1000, 3_700_000, -1]
    assert '"1000.0"' not in write_predictions([predicted()], "csv")


def test_predictions_as_csv_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(write_predictions([predicted(), bare()], "csv"), newline="", encoding="utf-8")
    first, second = read_transcript(path)
    assert [u.text for u in first] == [u.text for u in predicted().conversation]
    assert second.id == "conversation"


def test_no_predictions_as_csv_are_a_header() -> None:
    assert write_predictions([], "csv").count("\n") == 1


def test_the_table_shows_what_there_is() -> None:
    text = terminal(predicted())
    for part in (
        "talk",
        "0:01",
        "1:01:40",
        "Anna",
        "gold",
        "90%",
        "audio",
        "25%",
        "100%",
        "–",
        "context",
        "75%",
    ):
        assert part in text
    text = terminal(bare())
    for part in ("time", "speaker", "gold", "audio", "context", "?"):
        assert part not in text


def test_low_confidence_is_marked_without_colour() -> None:
    lines = terminal(predicted()).splitlines()
    assert any("anger ?" in line for line in lines)
    assert not any("joy ?" in line for line in lines)
    assert "less than 50% sure" in lines[-1]


def test_the_table_passes_on_neither_markup_nor_control_characters() -> None:
    text = terminal(predicted())
    assert "[bold]there[/bold]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_long_texts_are_wrapped_and_not_cut(width: int) -> None:
    long = Prediction(Conversation((Utterance("word " * 500, "Anna"),)), (Emotion("joy", 0.9, {"joy": 0.9}),))
    lines = terminal(long, width).splitlines()
    assert sum(line.count("word") for line in lines) == 500
    assert "joy" in terminal(long, width)
    assert all(len(line) <= width for line in lines)


# Printed


def test_a_prediction_prints_as_a_table() -> None:
    assert str(predicted()).splitlines() == [
        "talk",
        "#     time  speaker   utterance              gold  emotion  sure  audio  video  context",
        "-  -------  --------  ---------------------  ----  -------  ----  -----  -----  -------",
        "1     0:01  Anna      Hi [bold]there[/bold]  joy   joy       90%    25%      -      75%",
        "2  1:01:40  Bob [31m                               anger ?   40%   100%     0%       0%",
        "? less than 50% sure",
    ]
    assert repr(predicted()) == str(predicted())


def test_what_is_printed_is_whole_and_plain() -> None:
    """No line is cut or folded, and only what was said may be beyond ASCII: cp1252 prints the rest."""
    said = tuple(Utterance(f"turn {i} {'and so on ' * 40}end", "Ann") for i in range(99))
    prediction = Prediction(Conversation(said), bare().emotions * 99)
    lines = str(prediction).splitlines()
    assert len(lines) == 99 + 3
    assert all(" ".join(u.text.split()) in line for u, line in zip(said, lines[3:], strict=True))
    assert str(prediction).isascii()
    assert str(predicted()).isascii()
    shown = repr(prediction).splitlines()
    assert shown[:63] == lines[:63]
    assert shown[63:] == ["... and 39 more turns: print() shows all"]


def test_wide_characters_keep_the_columns() -> None:
    emotions = bare().emotions * 2
    talk = Conversation((Utterance("你好", "Ann"), Utterance("😀 ok?", "Ben")))
    *_, first, second = str(Prediction(talk, emotions)).splitlines()
    assert first == "1  Ann      你好       joy       50%"
    assert second == "2  Ben      😀 ok?     joy       50%"


def test_an_explanation_prints_because_of_what() -> None:
    influences = ((Influence(1, 0.25), Influence(0, -0.125)), ())
    explanation = Explanation(predicted(), influences)
    _, header, _, first, second, _ = str(explanation).splitlines()
    assert header.endswith("context  because of")
    assert first.endswith("75%  #2 +25%, #1 -12%")
    assert second.endswith("  0%")
    assert repr(explanation) == str(explanation)
