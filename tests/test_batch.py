from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers import make_batch
from mmerc.batch import Batch, Tokens, drop_modalities, length_buckets, targets
from mmerc.conversation import Conversation, Utterance
from mmerc.corpus import MISSING, Corpus, Features, write_corpus
from mmerc.errors import ConversationError, CorpusError, FeatureError
from mmerc.examples import Examples
from mmerc.manifest import seal

LENGTHS = [2, 1, 3]
SPEAKERS = ["Ana", "Ben", "Ben", "Cy", None, "Cy"]
TEXTS = ["hi", "", "so", None, "no", "a"]
LABELS = ["joy", None, "fear", "joy", "fear", None]
TABLES = {"video": 4, "audio": 3}


def values_of(name: str) -> np.ndarray:
    return np.random.default_rng(TABLES[name]).normal(size=(6, TABLES[name])).astype(np.float32)


def make_corpus(path: Path) -> Corpus:
    present = {"video": [1, 1, 0, 1, 1, 1], "audio": [0, 1, 1, 1, 1, 1]}
    return write_corpus(
        path,
        name="small",
        labels=["fear", "joy"],
        utterances=pd.DataFrame(
            {
                "dialogue_id": np.repeat(["x", "y", "z"], LENGTHS),
                "utterance_index": [0, 1, 0, 0, 1, 2],
                "speaker": SPEAKERS,
                "text": TEXTS,
                "label": LABELS,
            }
        ),
        features={m: Features(values_of(m), np.array(present[m], dtype=bool), {}) for m in TABLES},
        provenance={},
    )


class Letters:
    """A tokenizer in small: one token per letter, one window per dialogue."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(letter) for letter in text] for text in texts]

    def pack(self, dialogues: Sequence[Sequence[Sequence[int]]]) -> tuple[Tokens, ...]:
        flat = [[i for ids in dialogue for i in ids] for dialogue in dialogues]
        width = max(map(len, flat))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in flat])
        return (Tokens(ids, (ids > 0).long(), torch.zeros_like(ids)),)


def test_a_corpus_becomes_examples(tmp_path: Path) -> None:
    examples = Examples.from_corpus(make_corpus(tmp_path / "c"), ["video", "audio"])
    assert list(examples.features) == ["audio", "video"]
    assert examples.present.int().tolist() == [[0, 1], [1, 1], [1, 0], [1, 1], [1, 1], [1, 1]]
    assert examples.offsets.tolist() == [0, 2, 3, 6]
    assert examples.speakers.tolist() == [0, 1, 0, 0, 1, 0]
    assert examples.labels is not None
    assert examples.labels.tolist() == [1, MISSING, 0, 1, 0, MISSING]
    assert examples.texts is None
    for column, name in enumerate(["audio", "video"]):
        for row, values in enumerate(values_of(name)):
            expected = values if examples.present[row, column] else np.zeros(TABLES[name])
            np.testing.assert_array_equal(examples.features[name][row].numpy(), expected)


@pytest.mark.parametrize("dialogues", [[0], [2, 0], [1, 2, 0], [1, 1], [0, 1, 2]])
def test_a_batch_holds_its_dialogues_in_the_order_asked_for(tmp_path: Path, dialogues: list[int]) -> None:
    examples = Examples.from_corpus(make_corpus(tmp_path / "c"), ["audio", "video"])
    batch = examples.batch(np.array(dialogues))
    rows = [row for d in dialogues for row in range(examples.offsets[d], examples.offsets[d + 1])]
    assert batch.lengths.tolist() == [LENGTHS[d] for d in dialogues]
    assert batch.lengths.dtype == torch.int64
    assert list(batch.features) == ["audio", "video"]
    assert batch.labels is not None
    assert examples.labels is not None
    for place, row in enumerate(rows):
        assert batch.labels[place] == examples.labels[row]
        assert batch.speakers[place] == examples.speakers[row]
        assert torch.equal(batch.present[place], examples.present[row])
        for name, values in batch.features.items():
            assert torch.equal(values[place], examples.features[name][row])
    assert len(batch.labels) == len(rows)
    assert batch.tokens is None


def test_with_an_encoder_text_comes_from_the_texts(tmp_path: Path) -> None:
    encoder = Letters()
    examples = Examples.from_corpus(make_corpus(tmp_path / "c"), ["text", "audio"], encoder)  # type: ignore[arg-type]  # a stand-in
    assert list(examples.features) == ["audio"]
    assert examples.present[:, 1].tolist() == [True, False, True, False, True, True]
    batch = examples.batch(np.array([2, 0]))
    assert batch.tokens is not None
    assert batch.tokens[0].input_ids.tolist() == [[*b"noa"], [*b"hi", 0]]
    assert batch.present[:, 1].tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(("bad", "chunk"), [(np.nan, 100), (np.inf, 1), (-np.inf, 4)])
def test_a_present_row_that_is_not_finite_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float, chunk: int
) -> None:
    monkeypatch.setattr("mmerc.examples.CHUNK", chunk)
    corpus = make_corpus(tmp_path / "c")
    values, present = (x.clone() for x in corpus.features("audio"))
    values[[3, 5], 1] = bad
    save_file({"values": values, "present": present}, corpus.path / "features/audio.safetensors")
    seal(corpus.path)
    corpus = Corpus.open(corpus.path)
    with pytest.raises(
        FeatureError, match=r"'audio' has 2 rows with NaN or infinity, the first is row 3"
    ) as caught:
        Examples.from_corpus(corpus, ["audio"])
    assert str(corpus.path) in str(caught.value)
    present[[3, 5]] = False
    save_file({"values": values, "present": present}, corpus.path / "features/audio.safetensors")
    seal(corpus.path)
    assert not Examples.from_corpus(Corpus.open(corpus.path), ["audio"]).present[3]


def test_an_unknown_modality_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no modality 'gaze'"):
        Examples.from_corpus(make_corpus(tmp_path / "c"), ["gaze"])


def test_conversations_become_examples() -> None:
    def vector(*values: float) -> np.ndarray:
        return np.array(values, dtype=np.float32)

    conversations = [
        Conversation((Utterance("hi", "B", features={"b": vector(1, 2)}), Utterance("", "A"))),
        Conversation((Utterance("yo", "A", features={"a": vector(5), "b": vector(3, 4), "c": vector(0)}),)),
    ]
    examples = Examples.from_conversations(conversations, {"b": 2, "a": 1})
    assert list(examples.features) == ["a", "b"]
    assert examples.features["a"].tolist() == [[0], [0], [5]]
    assert examples.features["b"].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert examples.present.int().tolist() == [[0, 1], [0, 0], [1, 1]]
    assert examples.offsets.tolist() == [0, 2, 3]
    assert examples.speakers.tolist() == [0, 1, 0]
    assert examples.labels is None
    assert examples.batch(np.array([1])).labels is None
    with pytest.raises(ValueError, match="carries no labels"):
        targets(examples.batch(np.array([1])))


def test_conversations_with_an_encoder_are_tokenized() -> None:
    conversation = Conversation((Utterance("hi"), Utterance("")))
    examples = Examples.from_conversations([conversation], {"text": 6, "a": 1}, Letters())  # type: ignore[arg-type]  # a stand-in
    assert examples.texts == [[*b"hi"], []]
    assert list(examples.features) == ["a"]
    assert examples.present.int().tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": np.zeros(3)}, r"utterance 1: 'a' has shape \(3,\), the model expects \(2,\)"),
        ({"a": np.zeros((1, 2))}, r"utterance 1: 'a' has shape \(1, 2\)"),
        ({"a": np.array([0, np.nan])}, r"utterance 1: 'a' holds NaN or infinity; leave the modality out"),
        ({"a": np.array([np.inf, 0])}, r"utterance 1: 'a' holds NaN or infinity"),
    ],
)
def test_unusable_vectors_are_named(features: dict[str, np.ndarray], message: str) -> None:
    conversation = Conversation((Utterance("fine"), Utterance("not", features=features)))
    with pytest.raises(FeatureError, match=message):
        Examples.from_conversations([conversation], {"a": 2})


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(ConversationError, match="'talk' has no utterances"):
        Examples.from_conversations([Conversation((), id="talk")], {"a": 2})


BUCKETS = {
    "lengths": st.lists(st.integers(1, 40), min_size=1, max_size=120),
    "batch_size": st.integers(1, 9),
}


@settings(max_examples=40)
@given(**BUCKETS, seed=st.integers(0, 1000))
def test_shuffled_buckets_cover_everything_once(lengths: list[int], batch_size: int, seed: int) -> None:
    sizes = np.array(lengths)
    batches = [*length_buckets(sizes, batch_size, np.random.default_rng(seed))]
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert len(batches) == -(-len(lengths) // batch_size)
    again = [*length_buckets(sizes, batch_size, np.random.default_rng(seed))]
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]


@settings(max_examples=40)
@given(**BUCKETS)
def test_unshuffled_buckets_run_by_length(lengths: list[int], batch_size: int) -> None:
    sizes = np.array(lengths)
    order = np.concatenate([*length_buckets(sizes, batch_size)])
    assert order.tolist() == sorted(range(len(lengths)), key=lambda d: lengths[d])


def test_buckets_change_from_epoch_to_epoch_and_hold_like_lengths() -> None:
    sizes = np.random.default_rng(0).integers(1, 34, 400)
    generator = np.random.default_rng(1)
    first, second = ([*length_buckets(sizes, 8, generator)] for _ in range(2))
    assert [b.tolist() for b in first] != [b.tolist() for b in second]
    assert {frozenset(b.tolist()) for b in first} != {frozenset(b.tolist()) for b in second}
    spread = np.mean([np.ptp(sizes[batch]) for batch in first])
    blind = np.mean([np.ptp(sizes[part]) for part in np.split(np.arange(400), 50)])
    assert spread < blind / 5
    means = [sizes[batch].mean() for batch in first]
    assert any(a > b for a, b in pairwise(means))


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), chance=st.sampled_from([0.0, 0.3, 0.9, 0.999]))
def test_dropping_modalities_never_hides_the_last_one(seed: int, chance: float) -> None:
    batch = make_batch([5, 3, 8], seed=seed, missing=0.4)
    before = batch.present.clone()
    kept = drop_modalities(batch.present, chance, np.random.default_rng(seed))
    assert torch.equal(batch.present, before)
    assert not (kept & ~before).any()
    assert torch.equal(kept.any(dim=1), before.any(dim=1))
    if chance == 0:
        assert torch.equal(kept, before)


def test_modalities_are_dropped_with_the_given_chance() -> None:
    batch = make_batch([5000])
    kept = drop_modalities(batch.present, 0.3, np.random.default_rng(0)).double().mean().item()
    # An utterance that would lose all three keeps them all.
    assert kept == pytest.approx(0.7 + 0.3**3, abs=0.01)


def test_targets_are_what_somebody_labelled() -> None:
    labels = torch.tensor([0, MISSING, 2, MISSING])
    found, known = targets(make_batch([4])._replace(labels=labels))
    assert found is labels
    assert known.tolist() == [True, False, True, False]


def test_moving_a_batch_leaves_its_layout_on_the_cpu() -> None:
    ids = torch.tensor([[1, 2]])
    batch = make_batch([2, 1])._replace(tokens=(Tokens(ids, ids, ids), Tokens(ids, ids, ids, ids)))
    moved: Batch = batch.to(torch.device("meta"))
    assert moved.lengths.device.type == moved.speakers.device.type == "cpu"
    assert moved.labels is not None
    assert moved.tokens is not None
    assert moved.tokens[0].positions is None
    read = [*moved.tokens[0][:3], *moved.tokens[1]]
    tensors = [*moved.features.values(), moved.present, moved.labels, *read]
    assert {x.device.type for x in tensors} == {"meta"}
    bare = batch._replace(labels=None, tokens=None).to(torch.device("cpu"))
    assert bare.labels is None
    assert bare.tokens is None


def test_batches_by_utterances_hold_about_so_many() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    for generator in (None, np.random.default_rng(1)):
        batches = list(length_buckets(lengths, 8, generator, utterances=100))
        assert sorted(np.concatenate(batches).tolist()) == list(range(200))
        sizes = [int(lengths[batch].sum()) for batch in batches]
        assert all(len(batch) == 1 or size < 100 + 60 for batch, size in zip(batches, sizes, strict=True))
        assert 60 < np.mean(sizes) < 140
