from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmerc.conversation import Conversation, Emotion, Utterance
from mmerc.corpus import Corpus
from mmerc.errors import ConversationError, FeatureError
from mmerc.features.frozen import encode
from mmerc.features.text import Scope, TextEncoder
from mmerc.live import NOTICEABLE, LiveConversation, Update, looks_ahead
from mmerc.recognizer import Recognizer, load
from mmerc.training import train
from tiny import WIDTHS, config, make_bert, tables, task, write

SAID = [
    "oh no, the train is late",
    "late again, is it not fine!",
    "",
    "the train the train the train the train",  # opens a window of 12 tokens
    "great, the train is here!",
    "😀",
    "oh no",
    "no " * 30,  # longer than a window
    "fine",
    "great",
]
TURNS = [Utterance(text, "Ann" if i % 3 else "Ben") for i, text in enumerate(SAID)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def bert(folder: Path) -> Path:
    return make_bert(folder / "bert")


def trained(
    corpus: Corpus, out: Path, causal: bool = False, model: str = "df-erc", **settings: object
) -> Recognizer:
    run = config(model, epochs=1, **settings)  # type: ignore[arg-type]  # settings of several types
    if causal:
        run = replace(run, network={**run.network, "causal": True})
    train(task(corpus, run), out)
    return load(out, "cpu")


def encoded(folder: Path, bert: Path, scope: Scope) -> Corpus:
    frame, features = tables()
    bare = write(folder / scope, frame, {"audio": features["audio"]})
    encoder = TextEncoder.load(str(bert), window=12, scope=scope)
    dialogues = [[u.text for u in bare.conversation(d)] for d in range(len(bare.dialogue_ids))]
    return bare.add_modality("text", encode(encoder, dialogues))


@pytest.fixture(scope="module")
def frozen(folder: Path, bert: Path) -> dict[Scope, Recognizer]:
    """Models that read raw text with a frozen encoder; the one of single utterances is causal."""
    scopes: tuple[Scope, ...] = ("utterance", "dialogue", "both")
    return {s: trained(encoded(folder, bert, s), folder / f"run-{s}", s == "utterance") for s in scopes}


@pytest.fixture(scope="module")
def featured(folder: Path) -> Recognizer:
    """Reads vectors that somebody else made, and looks ahead."""
    return trained(write(folder / "tiny"), folder / "run-featured")


def grow(live: LiveConversation, turns: Sequence[Utterance]) -> Iterator[tuple[Conversation, Update]]:
    """Yield the conversation so far and the update, turn by turn."""
    for count, turn in enumerate(turns, start=1):
        yield Conversation(tuple(turns[:count]), "live"), live.append(turn)


def assert_same(one: Emotion, other: Emotion) -> None:
    assert one.label == other.label
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert one.contributions == pytest.approx(other.contributions, abs=1e-6)
    assert one.context_weight == pytest.approx(other.context_weight, abs=1e-5)  # a product of small cosines


def assert_predicts(recognizer: Recognizer, turns: Sequence[Utterance]) -> None:
    """The answers of every step are those of `predict`."""
    live = LiveConversation(recognizer)
    for so_far, update in grow(live, turns):
        expected = recognizer.predict(so_far)
        assert live.prediction.conversation == so_far
        assert live.prediction.modalities == expected.modalities
        assert update.turn == len(so_far) - 1 == len(live) - 1
        assert_same(update.emotion, expected.emotions[-1])
        for one, other in zip(live.prediction.emotions, expected.emotions, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("scope", ["utterance", "dialogue", "both"])
def test_every_step_is_a_prediction_of_the_conversation_so_far(
    frozen: dict[Scope, Recognizer], scope: Scope
) -> None:
    assert_predicts(frozen[scope], TURNS)


@pytest.mark.parametrize("scope", ["utterance", "both"])
def test_of_an_encoder_trained_along(folder: Path, bert: Path, scope: Scope) -> None:
    frame, features = tables()
    corpus = write(folder / f"along-{scope}", frame, {"audio": features["audio"]})
    encoder = {"name": str(bert), "window": 12, "scope": scope}
    recognizer = trained(corpus, folder / f"run-along-{scope}", scope == "utterance", text_encoder=encoder)
    assert looks_ahead(recognizer.checkpoint) == (scope == "both")
    assert_predicts(recognizer, TURNS)
    vector = np.ones(8, np.float32)  # such a model reads the text, whatever comes with it
    assert_predicts(recognizer, [replace(u, features={"text": vector}) for u in TURNS])


def test_of_vectors_that_come_along(featured: Recognizer, frozen: dict[Scope, Recognizer]) -> None:
    draw = np.random.default_rng(0)
    turns = [
        replace(u, features={m: draw.normal(size=w).astype(np.float32) for m, w in WIDTHS.items()})
        for u in TURNS
    ]
    turns[2] = Utterance("nothing")
    assert_predicts(featured, turns)
    audio = [replace(u, features={m: x for m, x in u.features.items() if m == "audio"}) for u in turns]
    assert_predicts(frozen["both"], audio)
    width = frozen["both"].checkpoint.info.modalities["text"].width
    text = [replace(u, features={"text": draw.normal(size=width).astype(np.float32)}) for u in turns[:4]]
    assert_predicts(frozen["both"], [*text, TURNS[4]])


def test_a_causal_model_never_changes_the_past(frozen: dict[Scope, Recognizer]) -> None:
    live = LiveConversation(frozen["utterance"])
    told = []
    for _, update in grow(live, TURNS):
        assert not update.changes
        told.append(update.emotion)
    for one, other in zip(told, live.prediction.emotions, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("scope", ["dialogue", "both"])
def test_updates_tell_all_that_matters(frozen: dict[Scope, Recognizer], scope: Scope) -> None:
    live = LiveConversation(frozen[scope])
    told: list[Emotion] = []
    changed = 0
    for _, update in grow(live, TURNS):
        for change in update.changes:
            assert change.before == told[change.turn] != change.after
            told[change.turn] = change.after
        changed += len(update.changes)
        told.append(update.emotion)
        for one, other in zip(told, live.prediction.emotions, strict=True):
            assert one.label == other.label
            assert one.probabilities == pytest.approx(other.probabilities, abs=NOTICEABLE)
    assert changed
    document = update.to_dict()
    assert document["turn"] == len(TURNS)
    assert document["emotion"]["label"] == update.emotion.label
    assert [c["turn"] for c in document["changes"]] == [c.turn + 1 for c in update.changes]


def test_only_the_last_window_is_read_again(frozen: dict[Scope, Recognizer]) -> None:
    for scope in frozen:
        live = LiveConversation(frozen[scope])
        encoder = frozen[scope].text_encoder()
        assert encoder is not None
        lengths: list[tuple[int, ...]] = []
        with encoder.model.register_forward_pre_hook(
            lambda _, __, given, seen=lengths: seen.append(given["input_ids"].shape), with_kwargs=True
        ):
            for turn in TURNS:
                live.append(turn)
        spoken = sum(bool(turn.text) for turn in TURNS)
        assert len(lengths) == len(encoder.scopes) * spoken
        assert {windows for windows, _ in lengths} == {1}
        assert max(tokens for _, tokens in lengths) == 12


def test_who_looks_ahead(folder: Path, frozen: dict[Scope, Recognizer], featured: Recognizer) -> None:
    ahead = {scope: looks_ahead(recognizer.checkpoint) for scope, recognizer in frozen.items()}
    assert ahead == {"utterance": False, "dialogue": True, "both": True}
    assert looks_ahead(featured.checkpoint)
    corpus = write(folder / "tiny-2")
    assert not looks_ahead(trained(corpus, folder / "run-causal", causal=True).checkpoint)
    assert not looks_ahead(trained(corpus, folder / "run-tfn", model="tfn").checkpoint)


def test_a_refused_turn_leaves_everything_as_it_was(frozen: dict[Scope, Recognizer]) -> None:
    live = LiveConversation(frozen["both"], longest=3, id="talk")
    with pytest.raises(ConversationError, match="'talk' has no utterances yet"):
        _ = live.prediction
    with pytest.raises(ConversationError, match="'talk' has nothing that this model reads"):
        live.append(Utterance(" "))
    live.append(TURNS[0])
    wrong = {"audio": np.full(4, np.nan, np.float32)}
    with pytest.raises(FeatureError, match="utterance 1: 'audio' holds NaN"):
        live.append(replace(TURNS[1], features=wrong))
    width = frozen["both"].checkpoint.info.modalities["text"].width
    with pytest.raises(ConversationError, match="turn 2 of 'talk' brings a text vector"):
        live.append(Utterance(features={"text": np.ones(width, np.float32)}))
    live.append(TURNS[1])
    live.append(TURNS[3])
    with pytest.raises(ConversationError, match="'talk' is full: it has 3 turns"):
        live.append(TURNS[4])
    expected = frozen["both"].predict(Conversation((TURNS[0], TURNS[1], TURNS[3])))
    for one, other in zip(live.prediction.emotions, expected.emotions, strict=True):
        assert_same(one, other)
    with pytest.raises(ValueError, match="at least 1"):
        LiveConversation(frozen["both"], longest=0)


def test_conversations_share_a_model_but_nothing_else(frozen: dict[Scope, Recognizer]) -> None:
    one, other = (LiveConversation(frozen["both"]) for _ in range(2))
    for turn in TURNS[:4]:
        one.append(turn)
    alone = other.append(TURNS[4]).emotion
    assert_same(alone, frozen["both"].predict(Conversation((TURNS[4],))).emotions[0])
