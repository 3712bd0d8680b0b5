"""Emotions from an exported model, with onnxruntime and numpy alone: neither PyTorch nor mmerc.

    mmerc export onnx meld-text --out model.onnx --text-encoder encoder.onnx
    python onnx_predict.py model.onnx --encoder encoder.onnx --chat chat.txt
    python onnx_predict.py model.onnx --features talk.npz

A chat has lines of `Speaker: text`; reading it takes the package tokenizers as well. A .npz file has one
array (N, width) per modality, a row of NaN where it is missing, and, if it likes, `speakers` (N,) and the
`lengths` (B,) of several dialogues.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]


class Encoder:
    """An exported text encoder: the texts of one dialogue → vectors (N, width), and which are there (N,)."""

    def __init__(self, path: str) -> None:
        from tokenizers import Tokenizer

        self.session = onnxruntime.InferenceSession(path)
        said = self.session.get_modelmeta().custom_metadata_map
        self.packing = json.loads(said["packing"])
        self.tokenizer = Tokenizer.from_str(said["tokenizer"])
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # "[SEP]" in a text is no separator

    def __call__(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Encode the texts of one dialogue."""
        limit = self.packing["utterance_limit"]
        encoded = self.tokenizer.encode_batch([text.strip() for text in texts], add_special_tokens=False)
        ids = [tokens.ids[:limit] for tokens in encoded]
        windows = []
        for part, scope in enumerate(self.packing["scopes"]):
            windows += [
                [(part * len(ids) + row, ids[row]) for row in window] for window in self.windows(ids, scope)
            ]
        present = np.array([bool(tokens) for tokens in ids])
        if not windows:
            raise SystemExit("there is no text")
        (vectors,) = self.session.run(["vectors"], {**self.padded(windows), "count": np.array(len(ids))})
        return vectors, present

    def windows(self, ids: list[list[int]], scope: str) -> list[list[int]]:
        """Cut the utterances into windows, each taking utterances as long as they fit."""
        spoken = [row for row, tokens in enumerate(ids) if tokens]
        if scope == "utterance":
            return [[row] for row in spoken]
        windows: list[list[int]] = []
        used = 0
        for row in spoken:
            if not windows or used + len(ids[row]) > self.packing["capacity"]:
                windows.append([])
                used = 0
            windows[-1].append(row)
            used += len(ids[row])
        return windows

    def padded(self, windows: list[list[tuple[int, list[int]]]]) -> dict[str, Array]:
        """Put the special tokens around every window and pad to the longest."""
        prefix, suffix = self.packing["prefix"], self.packing["suffix"]
        longest = max((sum(len(ids) for _, ids in window) for window in windows), default=0)
        shape = (len(windows), len(prefix) + longest + len(suffix))
        input_ids = np.full(shape, self.packing["padding"], dtype=np.int64)
        mask, rows = np.zeros(shape, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        for w, window in enumerate(windows):
            tokens = [*prefix, *(token for _, ids in window for token in ids), *suffix]
            input_ids[w, : len(tokens)], mask[w, : len(tokens)] = tokens, 1
            rows[w, len(prefix) : len(tokens) - len(suffix)] = [row for row, ids in window for _ in ids]
        return {"input_ids": input_ids, "attention_mask": mask, "rows": rows}


class Model:
    """An exported network: features by modality → outputs by name."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path)
        said = self.session.get_modelmeta().custom_metadata_map
        self.labels = json.loads(said["labels"])
        self.widths = {name: modality["width"] for name, modality in json.loads(said["modalities"]).items()}
        self.outputs = list(json.loads(said["outputs"]))

    def __call__(
        self, features: dict[str, Array], lengths: Sequence[int], names: Sequence[Any]
    ) -> dict[str, Array]:
        """Return what the network says about dialogues one after the other; `names` says who speaks."""
        count = int(sum(lengths))
        fed = {"lengths": np.array(lengths, np.int64), "speakers": numbered(names, lengths)}
        present = np.zeros((count, len(self.widths)), dtype=bool)
        for column, (name, width) in enumerate(self.widths.items()):
            values = np.asarray(features.get(name, np.full((count, width), np.nan)), dtype=np.float32)
            if values.shape != (count, width):
                raise SystemExit(f"{name} has shape {values.shape}, the model expects ({count}, {width})")
            present[:, column] = np.isfinite(values).all(axis=1)
            fed[f"features_{name}"] = np.where(present[:, [column]], values, 0.0).astype(np.float32)
        fed["present"] = present
        return dict(zip(self.outputs, self.session.run(self.outputs, fed), strict=True))


def numbered(names: Sequence[Any], lengths: Sequence[int]) -> Array:
    """Number the speakers of every dialogue, 0, 1, … by first appearance."""
    numbers, start = [], 0
    for length in lengths:
        seen: dict[Any, int] = {}
        numbers += [seen.setdefault(name, len(seen)) for name in names[start : start + length]]
        start += length
    return np.array(numbers, np.int64)


def read_chat(path: str) -> tuple[list[str], list[str]]:
    """Return who speaks, and what, of every line `Speaker: text`."""
    lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    parts = [line.partition(":") for line in lines]
    return [speaker.strip() for speaker, _, _ in parts], [text.strip() for _, _, text in parts]


def main() -> None:
    """Print speaker, emotion and probability of every utterance, and how much each modality counted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--features", help=".npz file")
    parser.add_argument("--encoder", help="ONNX file of the text encoder")
    parser.add_argument("--chat", help="text file with lines of `Speaker: text`")
    given = parser.parse_args()
    if not given.features and not (given.chat and given.encoder):
        parser.error("what to predict? --features, or --chat with --encoder")
    features: dict[str, Array] = dict(np.load(given.features)) if given.features else {}
    speakers, lengths = features.pop("speakers", None), features.pop("lengths", None)
    names = [] if speakers is None else speakers.tolist()
    if given.chat:
        names, texts = read_chat(given.chat)
        vectors, there = Encoder(given.encoder)(texts)
        features["text"] = np.where(there[:, None], vectors, np.nan)
    count = len(next(iter(features.values())))
    names = names or [0] * count
    model = Model(given.model)
    found = model(features, [count] if lengths is None else lengths.tolist(), names)
    for row, probabilities in enumerate(found["probabilities"]):
        best = int(probabilities.argmax())
        line = f"{row}\t{names[row]}\t{model.labels[best]}\t{probabilities[best]:.4f}"
        if "contributions" in found:
            shares = zip(model.widths, found["contributions"][row], strict=True)
            line += "\t" + " ".join(f"{name}={share:.2f}" for name, share in shares)
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
