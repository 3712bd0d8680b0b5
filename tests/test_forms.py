"""What may be handed in for a conversation, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmerc.conversation import Conversation, Utterance
from mmerc.errors import ConversationError
from mmerc.forms import conversation, conversations, looks_like_a_path, several

TALK = [("Ann", "I got the job!"), ("Ben", "No way!")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.txt").write_text("Ann: I got the job!\nBen: No way!\n", encoding="utf-8")
    return tmp_path


def told(given: Any) -> list[tuple[str, str]]:
    return [(utterance.speaker, utterance.text) for utterance in conversation(given)]


# What is taken


@pytest.mark.parametrize(
    "given",
    [
        "chat.txt",
        Path("chat.txt"),
        "Ann: I got the job!\nBen: No way!",
        "\nAnn: I got the job!\r\nBen: No way!\n\n",
        ["Ann: I got the job!", "Ben: No way!"],
        TALK,
        tuple(TALK),
        [list(pair) for pair in TALK],
        [{"speaker": "Ann", "text": "I got the job!"}, {"User": "Ben", "message": "No way!", "id": 7}],
        pd.DataFrame(TALK, columns=["speaker", "text"]),
        pd.DataFrame(TALK, columns=["Author", "Utterance"], index=[7, 3]),
        [Utterance("I got the job!", "Ann"), Utterance("No way!", "Ben")],
        Conversation((Utterance("I got the job!", "Ann"), Utterance("No way!", "Ben"))),
    ],
    ids=lambda given: type(given).__name__,
)
def test_every_form_says_the_same(given: Any) -> None:
    assert told(given) == TALK


@pytest.mark.parametrize(
    "text",
    [
        "I got the job!", "and/or?", "ok.", "24/7", "n/a", ":/", "\\o/", "</3", "o/", "/s", "3.14",
        "https://youtu.be/abc", "is it in chat.txt?", "x" * 5000, "a\0b", "他/她都很好", "yes / no", "a.com",
    ],
)  # fmt: skip
def test_a_text_is_an_utterance(text: str) -> None:
    assert told(text) == [("", text)]
    assert told([text]) == [("", text)]


def test_a_list_has_an_utterance_for_every_text() -> None:
    assert told(["Ann: hi", "how are you?", ""]) == [("Ann", "hi"), ("", "how are you?"), ("", "")]
    assert told(["well: yes", "no"]) == [("well", "yes"), ("", "no")]
    assert told(["yes", "well: no\nmaybe"]) == [("", "yes"), ("", "well: no\nmaybe")]
    assert told([(None, "hi"), ("Ben", "chat.txt")]) == [("", "hi"), ("Ben", "chat.txt")]


def test_the_fields_of_a_transcript() -> None:
    first, second = conversation(
        [
            {
                "text": "hi",
                "start": "0:01",
                "end_ms": 1500,
                "label": "joy",
                "features": {"audio": np.ones(2)},
            },
            {"text": 5, "features": {"audio": [1, 2], "visual": None}},
        ]
    )
    assert (first.start_ms, first.end_ms, first.label) == (1000, 1500, "joy")
    assert first.features["audio"].tolist() == [1, 1]
    assert (second.text, list(second.features)) == ("5", ["audio"])


def test_what_a_table_lacks_is_missing() -> None:
    table = pd.DataFrame(
        {"text": ["hi", None, "ok"], "start_ms": pd.array([0, None, 5], "Int64"), "end": [1.5, np.nan, 2]}
    )
    first, second, third = conversation(table.assign(confidence=0.5))
    assert [first.text, second.text, third.text] == ["hi", "", "ok"]
    assert [first.start_ms, second.start_ms, third.start_ms] == [0, None, 5]
    assert [first.end_ms, second.end_ms, third.end_ms] == [1500, None, 2000]


def test_several_conversations() -> None:
    table = pd.DataFrame({"text": ["a", "b", "c"], "dialogue_id": [1, 2, 1]})
    with pytest.raises(
        ConversationError, match=r"this DataFrame holds 2 conversations.*predict_many takes them"
    ):
        conversation(table)
    assert [(c.id, len(c)) for c in several(table)] == [("1", 2), ("2", 1)]
    table.to_csv("talks.csv", index=False)
    with pytest.raises(ConversationError, match=r"'talks\.csv' holds 2 conversations"):
        conversation("talks.csv")
    assert several("talks.csv") == several(table) == conversations(Path("talks.csv"))
    assert [len(c) for c in several(["chat.txt", TALK, "hi", ["a", "b", "c"]])] == [2, 2, 1, 3]
    assert several([]) == []
    with pytest.raises(ConversationError, match="conversation 2: a value of type int is not a conversation"):
        several(["hi", 5])


# What is refused


@pytest.mark.parametrize(
    "name",
    [
        "gone.txt", "talks/one.srt", "C:\\x\\chat.txt", "see chat.txt", "WhatsApp Chat with Ann.txt",
        "talk.MP4", "talk.docx", "gone.txt\n", "./talk", "../talk", "~/talk", "runs/df-erc", "/home/ann/talk",
        "no/such/file", "C:\\talks\\one", "x" * 5000 + ".txt",
    ],
)  # fmt: skip
def test_the_name_of_no_file_is_not_taken_for_a_text(name: str) -> None:
    with pytest.raises(ConversationError, match=r"does not exist\. If it is no path but what somebody said"):
        conversation(name)
    with pytest.raises(ConversationError, match="a list of names"):
        conversation([name])
    assert told([("", name)]) == [("", name)]
    assert told(["yes", name]) == [("", "yes"), ("", name)]


def test_what_is_there_is_never_a_text() -> None:
    Path("hi").mkdir()
    with pytest.raises(ConversationError, match="hi is a folder"):
        conversation("hi")
    with pytest.raises(ConversationError, match=r"a list of names, such as 'chat\.txt'.*predict_many"):
        conversation(["chat.txt", "chat.txt"])
    Path("talk.mp4").touch()
    for recording in ("talk.mp4", Path("talk.mp4")):
        with pytest.raises(ConversationError, match="is a recording: hand in its transcript"):
            conversation(recording)
    with pytest.raises(ConversationError, match="gone does not exist"):
        conversation(Path("gone"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "None is not a conversation: expected a path, a text, a list of"),
        (b"hi", "of type bytes is not a conversation: expected"),
        (5, "of type int is not"),
        ({"text": "hi"}, "of type dict is not"),
        ((x for x in ["hi"]), "of type generator is not"),
        (np.array(["hi"]), "of type ndarray is not"),
        (pd.Series(["hi"]), "of type Series is not"),
        ("", "an empty text"),
        (" \n ", "an empty text"),
        ([], "an empty list"),
        (pd.DataFrame(), "has no column 'text'"),
        (pd.DataFrame({"txt": ["a"], 5: [1]}), "has no column 'text'; it has: 'txt', 5"),
        (pd.DataFrame({"text": []}), "no utterances"),
        (("Ann", "hi"), "a pair alone may be a speaker and a text, or two texts"),
        (["hi", ("Ann", "hi")], "item 2 is a value of type tuple, item 1 is a value of type str"),
        ([("Ann", "hi", 5)], "item 1: .* is not a pair of a speaker and a text"),
        ([("Ann", 5)], "is not a pair"),
        ([None], "item 1 is None: expected"),
        (["hi", 5], "item 2 is a value of type int: expected"),
        ([{5: "hi"}], "item 1: the key 5 is not a text"),
        ([{"speaker": "Ann"}], "conversation: item 1: an utterance needs a text or features"),
        ([{"text": "a"}, {"text": "b", "start_ms": -1}], "item 2: start_ms: .*or equal to 0, not -1"),
        ([{"text": ["a"]}], "item 1: text: "),
        ([{"text": "a", "Text": "b"}], "'text' is there 2 times"),
        ([{"text": "a", "dialogue_id": "x"}, {"text": "b"}], "item 2: no dialogue_id, but other utt"),
        ([Conversation((Utterance("hi"),))], "predict_many takes a list of conversations"),
        ([Path("chat.txt")], "predict_many takes a list of conversations"),
        ([pd.DataFrame({"text": ["a"]})], "predict_many takes a list of conversations"),
        ("1\n00:00:01,000 --> 00:00:02,000\nhi", "a subtitle file is not plain text"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused_in_a_line(given: Any, said: str) -> None:
    with pytest.raises(ConversationError, match=said) as caught:
        conversation(given)
    assert "\n" not in str(caught.value)


def test_a_line_looks_like_a_path_or_not() -> None:
    assert looks_like_a_path("talks/one")
    assert not looks_like_a_path("talks/one\ntalks/two")


def test_who_has_no_table_does_not_wait_for_pandas() -> None:
    """The check for a DataFrame imports nothing; that other rooms import pandas is their affair."""
    code = (
        "import sys; from mmerc import forms; import mmerc.conversation as c; sys.modules.pop('pandas')\n"
        "assert len(forms.conversation(['hi'])) == 1 and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
