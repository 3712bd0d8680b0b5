import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from mmerc.batch import Tokens
from mmerc.errors import FeatureError
from mmerc.features.frozen import encode, encoder_for
from mmerc.features.packing import pack_windows
from mmerc.features.text import Scope, TextEncoder

WORDS = ["the", "train", "is", "late", "again", "oh", "no", "fine", "##ly", "!", "great"]
DIALOGUES = [
    ["Oh no!", "The train is late again!", "", "Fine."],
    ["great"],
    ["the train is late " * 3, "again! " * 6, "oh oh oh", "no", "   ", "finely great"],
    ["", " "],
    ["late " * 300, "is the train great"],
]


def make_bert(folder: Path, *, dropout: float = 0.0, positions: int = 24, seed: int = 0) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *WORDS, *"abcdefghijklmnopqrstuvwxyz[]."]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.5,
    )
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder.load(str(folder))


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder.load("minilm")


def token_ids(encoder: TextEncoder, dialogues: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    return [encoder.tokenize(list(utterances)) for utterances in dialogues]


def one_window_at_a_time(encoder: TextEncoder, dialogue: Sequence[str], capacity: int) -> Tensor:
    """Eq. 1 with A15, token by token: the reference."""
    ids = encoder.tokenize(list(dialogue))
    vectors = torch.zeros(len(ids), encoder.width)
    for window in pack_windows([len(x) for x in ids], capacity):
        body = [token for i in window for token in ids[i]]
        sequence = encoder._tokenizer("a")["input_ids"]
        sequence = torch.tensor([sequence[:1] + body + sequence[-1:]])
        hidden = encoder.model(input_ids=sequence).last_hidden_state[0]
        position = 1
        for i in window:
            if ids[i]:
                vectors[i] = torch.stack([hidden[position + k] for k in range(len(ids[i]))]).mean(0)
            position += len(ids[i])
    return vectors


# Packing


def test_packed_windows_hold_every_token_once(encoder: TextEncoder) -> None:
    ids = token_ids(encoder, DIALOGUES)
    blocks = encoder.pack(ids)
    flat = [utterance for dialogue in ids for utterance in dialogue]
    for row, utterance in enumerate(flat):
        found = [block.input_ids[block.rows == row].tolist() for block in blocks]
        assert [read for read in found if read] == [utterance] * bool(utterance)
    dialogue_of = np.repeat(np.arange(len(ids)), [len(d) for d in ids])
    windows = [
        (block.rows[line][block.attention_mask[line] == number], block, line, number)
        for block in blocks
        for line in range(len(block.rows))
        for number in range(1, int(block.attention_mask[line].max()) + 1)
    ]
    assert len(windows) == len(encoder.all_windows(ids))
    for rows, block, line, number in windows:
        spoken = rows[rows >= 0]
        assert len(set(dialogue_of[spoken.numpy()].tolist())) == 1
        assert len(rows) == len(spoken) + 2 <= 24  # [CLS] and [SEP]
        if block.positions is not None:
            places = block.positions[line][block.attention_mask[line] == number]
            assert places.tolist() == list(range(len(rows)))


# Vectors


def test_equals_the_plain_loop(encoder: TextEncoder) -> None:
    with torch.no_grad():
        expected = torch.cat([one_window_at_a_time(encoder, d, capacity=22) for d in DIALOGUES])
    features = encode(encoder, DIALOGUES, batch_tokens=64)
    np.testing.assert_allclose(features.values, expected.numpy(), atol=1e-5)
    spoken = [bool(text.strip()) for dialogue in DIALOGUES for text in dialogue]
    assert features.present.tolist() == spoken
    assert not features.values[~features.present].any()


def test_forward_and_encode_agree(encoder: TextEncoder) -> None:
    count = sum(map(len, DIALOGUES))
    with torch.no_grad():
        vectors = encoder(encoder.pack(token_ids(encoder, DIALOGUES)), count)
    np.testing.assert_allclose(vectors.numpy(), encode(encoder, DIALOGUES).values, atol=1e-5)


def test_a_dialogue_alone_or_among_others_in_any_order(encoder: TextEncoder) -> None:
    together = encode(encoder, DIALOGUES).values
    backwards = encode(encoder, DIALOGUES[::-1]).values
    alone = [encode(encoder, [dialogue], batch_tokens=1).values for dialogue in DIALOGUES]
    np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(alone[::-1]), backwards, atol=1e-5)


def test_padding_changes_nothing(encoder: TextEncoder) -> None:
    ids = token_ids(encoder, DIALOGUES[:2])
    for blocks in ([encoder.collate(encoder.all_windows(ids))], encoder.pack(ids)):
        wider = [
            Tokens(
                *(
                    x if x is None else pad(x, (0, 5), value=fill)
                    for x, fill in zip(b, (0, 0, -1, 0), strict=True)
                )
            )
            for b in blocks
        ]
        with torch.no_grad():
            torch.testing.assert_close(encoder(blocks, 5), encoder(wider, 5), atol=1e-5, rtol=0)


def test_context_enters_within_a_dialogue_only(encoder: TextEncoder) -> None:
    joined = encode(encoder, [["oh no", "great"]]).values
    apart = encode(encoder, [["oh no"], ["great"]]).values
    assert np.abs(joined - apart).max() > 1e-2


def test_nothing_to_read(encoder: TextEncoder) -> None:
    assert encode(encoder, []).values.shape == (0, 16)
    blank = encode(encoder, [["", " \t\n"], [], [""]])
    assert not blank.present.any()
    assert not blank.values.any()
    assert encoder(encoder.pack([[[], []]]), 2).tolist() == [[0.0] * 16] * 2


def test_progress_counts_utterances(encoder: TextEncoder) -> None:
    calls: list[int] = []
    encode(encoder, DIALOGUES, progress=calls.append, batch_tokens=32)
    assert calls == sorted(calls)
    assert len(calls) > 3
    assert calls[-1] == sum(map(len, DIALOGUES))


def test_encode_leaves_the_mode_alone(encoder: TextEncoder) -> None:
    encoder.train()
    encode(encoder, [["oh"]])
    assert encoder.training
    assert encoder.model.training
    encoder.eval()


def test_vectors_that_are_not_finite_are_refused(folder: Path) -> None:
    broken = TextEncoder.load(str(folder))
    torch.nn.init.constant_(next(broken.parameters()), torch.nan)
    with pytest.raises(FeatureError, match="gives NaN or infinity"):
        encode(broken, [["oh"]])


# Text


def test_long_texts_are_clipped(folder: Path) -> None:
    encoder = TextEncoder.load(str(folder), window=12, utterance_limit=7)
    ids = encoder.tokenize(["late " * 10_000, "is " * 7, "is " * 6])
    assert [len(x) for x in ids] == [7, 7, 6]
    assert max(map(len, TextEncoder.load(str(folder), window=5).tokenize(["late " * 50]))) == 3


def test_special_tokens_in_a_text_are_plain_characters(encoder: TextEncoder) -> None:
    special = set(encoder._tokenizer.all_special_ids) - {encoder._tokenizer.unk_token_id}
    assert not special & set(encoder.tokenize(["a [SEP] b [PAD] [CLS]"])[0])


@pytest.mark.parametrize(
    "text",
    [
        "😀 great 👩‍👩‍👧",
        "電車が遅れた",
        "поезд опаздывает",
        "the\x00train\x07\x1b[31m",
        "\ud800 late \udfff",
        "\ufeffno\u202e",
    ],
    ids=["emoji", "japanese", "cyrillic", "control", "surrogates", "marks"],
)
def test_any_text_is_read(encoder: TextEncoder, text: str) -> None:
    features = encode(encoder, [[text, "great"]])
    assert features.present.all()
    assert np.isfinite(features.values).all()


def test_surrogate_pairs_are_joined(minilm: TextEncoder) -> None:
    assert minilm.tokenize(["\ud83d\ude00"]) == minilm.tokenize(["😀"])


def test_text_without_tokens_is_absent(encoder: TextEncoder) -> None:
    assert encode(encoder, [["\x07\x00", "oh"]]).present.tolist() == [False, True]


# Training


def test_gradients_reach_the_embedding(folder: Path) -> None:
    encoder = TextEncoder.load(str(folder)).train()
    encoder(encoder.pack(token_ids(encoder, DIALOGUES)), 15).square().sum().backward()
    # In a row of the embedding that was read; and no parameter is left out.
    assert all(p.grad is not None for p in encoder.parameters())
    grad = encoder.model.get_input_embeddings().weight.grad
    assert grad[encoder.tokenize(["late"])[0]].abs().sum() > 0


def checkpoints(encoder: TextEncoder) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in encoder.model.modules())


def test_gradient_checkpointing_gives_equal_gradients(folder: Path) -> None:
    plain = TextEncoder.load(str(folder)).train()
    sparing = TextEncoder.load(str(folder), gradient_checkpointing=True).train()
    assert checkpoints(sparing)
    assert plain.recipe == sparing.recipe
    for encoder in (plain, sparing):
        encoder(encoder.pack(token_ids(encoder, DIALOGUES)), 15).sin().sum().backward()
    for one, other in zip(plain.parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_that_a_model_lacks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel

    monkeypatch.setattr(BertModel, "supports_gradient_checkpointing", False)
    with pytest.raises(FeatureError, match="has no gradient checkpointing"):
        TextEncoder.load(str(folder), gradient_checkpointing=True)


def test_mixed_precision_sums_in_float32(encoder: TextEncoder) -> None:
    tokens = encoder.pack(token_ids(encoder, DIALOGUES))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = encoder(tokens, 15)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(half, torch.from_numpy(encode(encoder, DIALOGUES).values))[0] > 0.99


def test_dropout_is_active_in_training_only(tmp_path: Path) -> None:
    encoder = TextEncoder.load(str(make_bert(tmp_path, dropout=0.3)))
    tokens = encoder.pack([encoder.tokenize(["oh no"])])
    torch.testing.assert_close(encoder(tokens, 1), encoder(tokens, 1))
    encoder.train()
    assert not torch.allclose(encoder(tokens, 1), encoder(tokens, 1))
    # `encode` has no dropout whatever the mode.
    assert (encode(encoder, [["oh no"]]).values == encode(encoder, [["oh no"]]).values).all()


def test_loading_leaves_the_random_state_alone(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    TextEncoder.load(str(folder))
    assert torch.equal(torch.rand(2), expected)


def test_a_saved_encoder_is_restored_without_the_original(folder: Path, tmp_path: Path) -> None:
    original = TextEncoder.load(str(folder), window=20, utterance_limit=9)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(1.1)  # fine-tuned
    original.save(tmp_path / "encoder")
    assert not list((tmp_path / "encoder").glob("*.safetensors"))
    assert str(folder) not in (tmp_path / "encoder" / "config.json").read_text(encoding="utf-8")
    restored = TextEncoder.restore(tmp_path / "encoder", gradient_checkpointing=True)
    restored.load_state_dict(original.state_dict())
    assert restored.recipe == original.recipe
    assert checkpoints(restored)
    assert (encode(restored, DIALOGUES).values == encode(original, DIALOGUES).values).all()


@pytest.mark.parametrize("damage", ["recipe.json", "config.json", "tokenizer.json"])
def test_a_broken_saved_encoder_is_refused(encoder: TextEncoder, tmp_path: Path, damage: str) -> None:
    encoder.save(tmp_path / "encoder")
    (tmp_path / "encoder" / damage).write_text("{", encoding="utf-8")
    with pytest.raises(FeatureError, match="cannot be read"):
        TextEncoder.restore(tmp_path / "encoder")


# Recipes


def test_the_recipe_says_what_made_the_vectors(encoder: TextEncoder, folder: Path) -> None:
    recipe = encoder.recipe
    assert recipe == json.loads(json.dumps(recipe))
    assert recipe["encoder"] == str(folder)
    assert (recipe["pooling"], recipe["window"], recipe["utterance_limit"]) == ("mean", 24, 256)
    assert encode(encoder, [["oh"]]).recipe == recipe
    again = encoder_for(recipe)
    assert again.recipe == recipe
    assert (encode(again, DIALOGUES).values == encode(encoder, DIALOGUES).values).all()


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    recipe = TextEncoder.load(str(make_bert(tmp_path))).recipe
    make_bert(tmp_path, seed=1)
    with pytest.raises(FeatureError, match="is not the one that made the features") as caught:
        encoder_for(recipe)
    assert recipe["sha256"] in str(caught.value)
    assert TextEncoder.load(str(tmp_path)).recipe["sha256"] in str(caught.value)


def test_an_encoder_that_moved_is_accepted(encoder: TextEncoder, tmp_path: Path) -> None:
    recipe = {**encoder.recipe, "encoder": str(tmp_path / "gone")}
    with pytest.raises(FeatureError, match="no such folder"):
        encoder_for(recipe)
    assert encoder_for(recipe, name=encoder.recipe["encoder"]).recipe == recipe
    with pytest.raises(FeatureError, match="is not the one that made the features"):
        encoder_for({**recipe, "sha256": "0"}, name=encoder.recipe["encoder"])


@pytest.mark.parametrize(
    "change", [{"kind": "audio"}, {"pooling": "cls"}, {"window": "24"}, {"window": 0}, {"context": 3}]
)
def test_recipes_of_something_else_are_refused(encoder: TextEncoder, change: dict[str, object]) -> None:
    with pytest.raises(FeatureError, match=f"no text encoder has the recipe .*{next(iter(change))}"):
        encoder_for({**encoder.recipe, **change})


def test_a_window_that_the_encoder_cannot_read_is_refused(encoder: TextEncoder, folder: Path) -> None:
    for window in (25, 2):
        with pytest.raises(
            FeatureError, match=f"window of {window} tokens is not possible; it takes 3 to 24"
        ):
            TextEncoder.load(str(folder), window=window)
    with pytest.raises(FeatureError, match="at least 1"):
        TextEncoder.load(str(folder), utterance_limit=0)
    with pytest.raises(FeatureError, match="window of 25"):
        encoder_for({**encoder.recipe, "window": 25})


# The embedded encoder


def test_minilm_reads_meaning(minilm: TextEncoder) -> None:
    assert (minilm.width, minilm.recipe["encoder"], minilm.recipe["window"]) == (384, "minilm", 512)
    sentences = ["I am so angry at you!", "You make me furious.", "The parcel arrives on Tuesday."]
    vectors = torch.from_numpy(encode(minilm, [[s] for s in sentences]).values)
    close, distant, other = (
        torch.cosine_similarity(vectors[i], vectors[j], dim=0) for i, j in ((0, 1), (0, 2), (1, 2))
    )
    assert close > max(distant, other) + 0.2


def test_minilm_equals_the_plain_loop(minilm: TextEncoder) -> None:
    dialogues = [["Hey!", "Why are you late?", "Because the train broke down. " * 90, "Oh."], ["Fine."]]
    with torch.no_grad():
        expected = torch.cat([one_window_at_a_time(minilm, d, capacity=510) for d in dialogues])
    np.testing.assert_allclose(encode(minilm, dialogues).values, expected.numpy(), atol=1e-5)


def test_minilm_clips_where_the_recipe_says(minilm: TextEncoder) -> None:
    # Its tokenizer file asks for truncation at 128 tokens, which must not count here.
    assert len(minilm.tokenize(["late " * 10_000])[0]) == 256


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("scope", ["dialogue", "utterance", "both"])
def test_layers_and_scopes_equal_a_plain_loop(tmp_path: Path, scope: Scope) -> None:
    folder = make_bert(tmp_path / "bert", positions=64)
    encoder = TextEncoder.load(str(folder), layers=(0, 2), scope=scope)
    dialogue = ["Oh no!", "", "the train is late", "fine"]
    found = encode(encoder, [["great"], dialogue]).values[1:]

    def read(utterances: list[list[int]]) -> list[Tensor]:
        """Read one window, and return the mean of its two layers for each utterance."""
        flat = [token for ids in utterances for token in ids]
        with torch.no_grad():
            ids = torch.tensor([[2, *flat, 3]])  # [CLS] … [SEP]
            states = encoder.model(input_ids=ids, output_hidden_states=True).hidden_states
        joined, start, vectors = torch.cat([states[0][0], states[2][0]], dim=-1), 1, []
        for tokens in utterances:
            part = joined[start : start + len(tokens)]
            vectors.append(part.mean(dim=0) if len(tokens) else torch.zeros(32))
            start += len(tokens)
        return vectors

    ids = encoder.tokenize(dialogue)
    together, alone = read(ids), [read([tokens])[0] for tokens in ids]
    parts = {"dialogue": [together], "utterance": [alone], "both": [together, alone]}[scope]
    expected = torch.stack([torch.cat(vectors) for vectors in zip(*parts, strict=True)])
    torch.testing.assert_close(torch.from_numpy(found), expected)
    packed = encoder(encoder.pack([ids]), len(ids))
    torch.testing.assert_close(packed.detach(), expected)


def test_a_recipe_says_layers_and_scope(tmp_path: Path) -> None:
    folder = str(make_bert(tmp_path / "bert"))
    encoder = TextEncoder.load(folder, layers=(1, 2), scope="utterance")
    assert encoder.recipe["layers"] == [1, 2]
    assert encoder.recipe["scope"] == "utterance"
    assert encoder.width == 32
    assert encoder_for(encoder.recipe).recipe == encoder.recipe
    with pytest.raises(FeatureError, match="layers are 0 to 2"):
        TextEncoder.load(folder, layers=(3,))
