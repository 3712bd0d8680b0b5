import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mmerc
from mmerc.conversation import Conversation, Emotion, Prediction, Utterance
from mmerc.corpus import Corpus
from mmerc.errors import CheckpointError, ConfigError, ConversationError, FeatureError
from mmerc.evaluation import evaluate
from mmerc.features.frozen import encode
from mmerc.features.text import TextEncoder
from mmerc.recognizer import Recognizer, load
from mmerc.training import train
from tiny import LABELS, WIDTHS, config, every_model, make_bert, tables, task, write


@pytest.fixture(scope="module")
def recognizer(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("df-erc", epochs=2)), out)
    return load(out)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus whose text vectors a tiny encoder has made."""
    folder = tmp_path_factory.mktemp("encoded")
    frame, features = tables()
    bare = write(folder / "c", frame, {"audio": features["audio"]})
    encoder = TextEncoder.load(str(make_bert(folder / "bert")))
    dialogues = [[u.text for u in bare.conversation(d)] for d in range(len(bare.dialogue_ids))]
    return bare.add_modality("text", encode(encoder, dialogues))


@pytest.fixture(scope="module")
def reader(encoded: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """Reads raw text by the recipe of its checkpoint."""
    out = tmp_path_factory.mktemp("run")
    train(task(encoded, config("df-erc", epochs=2)), out)
    return load(out)


def vectors(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {m: generator.normal(size=w).astype(np.float32) for m, w in WIDTHS.items()}


def talk(*utterances: Utterance, name: str = "chat") -> Conversation:
    return Conversation(utterances, id=name)


def without(conversation: Conversation, modality: str) -> Conversation:
    stripped = [
        replace(u, features={m: x for m, x in u.features.items() if m != modality}) for u in conversation
    ]
    return replace(conversation, utterances=tuple(stripped))


def assert_close(one: Prediction, other: Prediction) -> None:
    assert len(one) == len(other)
    for a, b in zip(one.emotions, other.emotions, strict=True):
        assert a.label == b.label
        assert a.confidence == pytest.approx(b.confidence, abs=1e-5)
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        assert a.contributions == pytest.approx(b.contributions, abs=1e-5)
        assert a.context_weight == pytest.approx(b.context_weight, abs=1e-5)


# What is predicted


@pytest.mark.parametrize("model", every_model())
def test_predictions_are_those_of_evaluate(corpus: Corpus, tmp_path: Path, model: str) -> None:
    train(task(corpus, config(model, epochs=1)), tmp_path)
    (found,) = evaluate(tmp_path, corpus)
    said = load(tmp_path).predict_many([corpus.conversation(int(d)) for d in corpus.split("test")])
    emotions = [emotion for prediction in said for emotion in prediction.emotions]
    rows = [[e.probabilities[name] for name in LABELS] for e in emotions]
    np.testing.assert_allclose(rows, found.probabilities, atol=1e-5)
    for values, emotion in zip(rows, emotions, strict=True):
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert (emotion.label, emotion.confidence) == (LABELS[int(np.argmax(values))], max(values))
    assert (emotions[0].contributions is None) == (model not in ("df-erc", "late-fusion"))
    assert (emotions[0].context_weight is None) == (model != "df-erc")


def test_alone_or_among_others(corpus: Corpus, recognizer: Recognizer) -> None:
    conversations = [corpus.conversation(d) for d in range(8)]
    together = recognizer.predict_many(conversations)
    assert [p.conversation for p in together] == conversations
    for conversation, prediction in zip(conversations, together, strict=True):
        assert_close(prediction, recognizer.predict(conversation))
    assert recognizer.predict_many([]) == []


def test_labels_and_names_are_not_looked_at(corpus: Corpus, recognizer: Recognizer) -> None:
    conversation = corpus.conversation(1)
    blind = [replace(u, label=None, text="") for u in conversation]
    assert recognizer.predict(conversation).emotions == recognizer.predict(talk(*blind)).emotions


def test_a_missing_modality_has_no_contribution(corpus: Corpus, recognizer: Recognizer) -> None:
    for d in range(3):
        conversation = corpus.conversation(d)
        for utterance, emotion in recognizer.predict(conversation):
            assert emotion.contributions is not None
            assert {m for m, x in emotion.contributions.items() if x is not None} == set(utterance.features)
            assert all(0 <= x <= 1 for x in emotion.contributions.values() if x is not None)
    alone = recognizer.predict(talk(Utterance(features={"audio": vectors()["audio"]})))
    assert alone.emotions[0].contributions is not None
    assert alone.emotions[0].contributions["text"] is None


def test_a_single_utterance(recognizer: Recognizer) -> None:
    (pair,) = recognizer.predict(talk(Utterance(features=vectors())))
    assert sum(pair[1].probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_an_utterance_without_anything_among_others(recognizer: Recognizer) -> None:
    said = recognizer.predict(talk(Utterance(features=vectors()), Utterance("hm")))
    assert said.emotions[1].contributions == {"audio": None, "text": None}
    assert np.isfinite(list(said.emotions[1].probabilities.values())).all()


def test_further_features_are_left_aside(recognizer: Recognizer) -> None:
    extra = {**vectors(), "heart rate": np.ones(3, np.float32)}
    one, other = (recognizer.predict(talk(Utterance(features=f))) for f in (vectors(), extra))
    assert one.emotions == other.emotions


def test_json(recognizer: Recognizer) -> None:
    spoken = Utterance("schön 😀", "Zoë", start_ms=0, end_ms=900, label="joy", features=vectors())
    prediction = recognizer.predict(talk(spoken, Utterance(features={"audio": vectors()["audio"]})))
    text = prediction.to_json()
    assert "schön 😀" in text
    document = json.loads(text)
    assert document == prediction.to_dict()
    assert document["conversation"] == "chat"
    first, second = document["utterances"]
    assert (first["speaker"], first["start_ms"], first["gold"], first["turn"]) == ("Zoë", 0, "joy", 1)
    assert first["label"] == prediction.emotions[0].label
    assert list(first["probabilities"]) == list(LABELS)
    assert second["contributions"]["text"] is None
    assert "gold" not in second
    assert "features" not in text


def test_a_prediction_walks_in_pairs() -> None:
    emotion = Emotion("joy", 1.0, {"joy": 1.0, "anger": 0.0})
    prediction = Prediction(talk(Utterance("a"), Utterance("b")), (emotion, emotion))
    assert [(u.text, e.label) for u, e in prediction] == [("a", "joy"), ("b", "joy")]


def test_what_it_reads_and_tells(recognizer: Recognizer) -> None:
    assert recognizer.labels == LABELS
    assert recognizer.modalities == ("audio", "text")
    assert mmerc.load(recognizer.checkpoint.path).labels == LABELS


# Raw text


def test_raw_text_is_read_as_the_corpus_was(encoded: Corpus, reader: Recognizer) -> None:
    for d in range(4):
        conversation = encoded.conversation(d)
        raw = without(conversation, "text")
        assert any("audio" in u.features for u in raw)
        prediction = reader.predict(raw)
        assert_close(prediction, reader.predict(conversation))
        assert prediction.conversation == raw
    together = reader.predict_many([without(encoded.conversation(d), "text") for d in range(4)])
    assert_close(together[3], reader.predict(encoded.conversation(3)))


def test_conversations_with_and_without_text_vectors_together(encoded: Corpus, reader: Recognizer) -> None:
    given = encoded.conversation(0)
    one, other, audio = reader.predict_many(
        [given, without(given, "text"), talk(Utterance(features={"audio": vectors()["audio"]}))]
    )
    assert_close(one, other)
    assert audio.emotions[0].contributions is not None
    assert audio.emotions[0].contributions["text"] is None


def test_any_text(reader: Recognizer) -> None:
    texts = ["late " * 10_000, "😀👩‍👩‍👧", "電車が遅れた", "", "\ud800", "oh no"]
    together = reader.predict(talk(*(Utterance(t) for t in texts)))
    assert len(together) == len(texts)
    assert all(np.isfinite(list(e.probabilities.values())).all() for e in together.emotions)
    assert together.emotions[3].contributions == {"audio": None, "text": None}
    for text in (texts[0], texts[1]):
        assert len(reader.predict(talk(Utterance(text)))) == 1


def test_an_encoder_trained_along_reads_raw_text(tmp_path: Path) -> None:
    frame, features = tables()
    corpus = write(tmp_path / "c", frame, {"audio": features["audio"]})
    run = config("df-erc", text_encoder={"name": str(make_bert(tmp_path / "bert"))}, epochs=1)
    train(task(corpus, run), tmp_path / "run")
    recognizer = load(tmp_path / "run")
    (found,) = evaluate(tmp_path / "run", corpus)
    said = recognizer.predict_many([corpus.conversation(int(d)) for d in corpus.split("test")])
    rows = [[e.probabilities[name] for name in LABELS] for p in said for e in p.emotions]
    np.testing.assert_allclose(rows, found.probabilities, atol=1e-5)
    with pytest.raises(ConversationError, match="has nothing that this model reads"):
        recognizer.predict(talk(Utterance(" ")))
    assert len(recognizer.predict(talk(Utterance("late " * 10_000), Utterance("😀"))))


def test_an_encoder_that_is_gone(tmp_path: Path) -> None:
    bert = make_bert(tmp_path / "bert")
    frame, _ = tables()
    bare = write(tmp_path / "c", frame, {})
    encoder = TextEncoder.load(str(bert))
    corpus = bare.add_modality("text", encode(encoder, [[t] for t in frame["text"]]))
    train(task(corpus, config(epochs=1)), tmp_path / "run")
    bert.rename(tmp_path / "moved")
    with pytest.raises(FeatureError, match="no such folder"):
        load(tmp_path / "run").predict(talk(Utterance("oh no")))
    assert load(tmp_path / "run").predict(corpus.conversation(0))


# What cannot be predicted


def test_no_utterances(recognizer: Recognizer) -> None:
    with pytest.raises(ConversationError, match="conversation 'chat' has no utterances"):
        recognizer.predict(talk())


def test_nothing_that_the_model_reads(corpus: Corpus, recognizer: Recognizer) -> None:
    said = "conversation 'empty' has nothing that this model reads; it reads: audio, text"
    # Its text vectors were made elsewhere, so that it cannot read raw text.
    for utterance in (Utterance("hello"), Utterance(features={"visual": np.ones(3, np.float32)})):
        with pytest.raises(ConversationError, match=said):
            recognizer.predict_many([corpus.conversation(0), talk(utterance, name="empty")])


@pytest.mark.parametrize("shape", [(3,), (5,), (1, 4), ()])
def test_a_vector_of_another_width(recognizer: Recognizer, shape: tuple[int, ...]) -> None:
    wrong = {**vectors(), "audio": np.ones(shape, np.float32)}
    with pytest.raises(FeatureError, match=r"utterance 1: 'audio' has shape .* expects \(4,\)"):
        recognizer.predict(talk(Utterance(features=vectors()), Utterance(features=wrong)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite(recognizer: Recognizer, value: float) -> None:
    wrong = vectors()
    wrong["text"][2] = value
    with pytest.raises(FeatureError, match="utterance 0: 'text' holds NaN or infinity"):
        recognizer.predict(talk(Utterance(features=wrong)))


def test_no_checkpoint_or_no_device(tmp_path: Path, recognizer: Recognizer) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
        load(tmp_path / "missing")
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used"):
        load(recognizer.checkpoint.path, "gpu")


def test_predicting_leaves_gradients_and_randomness_alone(corpus: Corpus, recognizer: Recognizer) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    recognizer.predict(corpus.conversation(0))
    assert torch.equal(torch.rand(3), expected)
    assert torch.is_grad_enabled()
