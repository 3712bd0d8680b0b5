"""Explanations: what taking a turn away changes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmerc.conversation import Conversation, Emotion, Prediction, Utterance
from mmerc.corpus import Corpus
from mmerc.explanation import STRETCH, Influence, occlude
from mmerc.recognizer import Recognizer, load
from mmerc.training import train
from tiny import config, task, write


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture(scope="module")
def recognizer(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("df-erc", epochs=2)), out)
    return load(out, "cpu")


def test_against_removing_by_hand(corpus: Corpus, recognizer: Recognizer) -> None:
    conversation = next(c for d in range(15) if len(c := corpus.conversation(d)) >= 4)
    explanation = recognizer.explain(conversation, most=99)
    whole = recognizer.predict(conversation)
    assert explanation.prediction == whole
    for row, influences in enumerate(explanation.influences):
        label = whole.emotions[row].label
        assert row not in {i.turn for i in influences}
        assert len(influences) == len(conversation) - 1
        sizes = [abs(i.change) for i in influences]
        assert sizes == sorted(sizes, reverse=True)
        for influence in influences:
            others = [u for turn, u in enumerate(conversation) if turn != influence.turn]
            said = recognizer.predict(replace(conversation, utterances=tuple(others)))
            there = whole.emotions[row].probabilities[label]
            gone = said.emotions[row - (influence.turn < row)].probabilities[label]
            assert influence.change == pytest.approx(there - gone, abs=1e-6)


def test_the_strongest_are_kept(corpus: Corpus, recognizer: Recognizer) -> None:
    conversation = corpus.conversation(0)
    every, few = (recognizer.explain(conversation, most=n).influences for n in (99, 1))
    assert [row[:1] for row in every] == list(few)
    document = recognizer.explain(conversation, most=1).to_dict()
    first = document["utterances"][0]["influences"]
    assert first == [{"turn": i.turn + 1, "change": i.change} for i in few[0]]


def test_one_turn_and_turns_without_anything(corpus: Corpus, recognizer: Recognizer) -> None:
    spoken = corpus.conversation(0).utterances[0]
    assert recognizer.explain(Conversation((spoken,))).influences == ((),)
    explanation = recognizer.explain(Conversation((spoken, Utterance("nothing measured"))))
    assert all(len(row) <= 1 for row in explanation.influences)
    assert all(np.isfinite(i.change) for row in explanation.influences for i in row)


def test_a_causal_model_has_no_later_influences(corpus: Corpus, tmp_path: Path) -> None:
    run = config("df-erc", epochs=1)
    run = replace(run, network={**run.network, "causal": True})
    train(task(corpus, run), tmp_path / "run")
    conversation = next(c for d in range(15) if len(c := corpus.conversation(d)) >= 4)
    explanation = load(tmp_path / "run", "cpu").explain(conversation, most=99)
    for row, influences in enumerate(explanation.influences):
        assert all(i.turn < row for i in influences if abs(i.change) > 1e-6)


def test_long_conversations_are_explained_in_stretches() -> None:
    sizes = []

    def predict(conversations: Sequence[Conversation]) -> list[Prediction]:
        sizes.append([len(c) for c in conversations])
        return [
            Prediction(c, tuple(Emotion("a", 1.0, {"a": 1 / (1 + len(c)), "b": 0.0}) for _ in c))
            for c in conversations
        ]

    long = Conversation(tuple(Utterance(str(n)) for n in range(STRETCH + 2)))
    explanation = occlude(predict, predict([long])[0], most=1)
    assert sizes[1:] == [[STRETCH, *[STRETCH - 1] * STRETCH], [2, 1, 1]]
    assert explanation.influences[-1] == (Influence(STRETCH, 1 / 3 - 1 / 2),)
