"""A trained model as ONNX graphs, which run without PyTorch and without mmerc.

There are two: the network, from features to probabilities (`export_onnx`), and the text encoder in front of
it, from token ids to text vectors (`export_text_encoder`). Both are dynamic in all that varies between
conversations. Before a file is written, it is run beside the model on batches of other shapes than the one it
was traced on. What a user of the file has to know is in its metadata; docs/embedding.md explains it.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.onnx import utils

from mmerc.batch import Batch, Tokens
from mmerc.checkpoint import load_checkpoint, versions
from mmerc.errors import ConfigError
from mmerc.extras import needed
from mmerc.features.frozen import encoder_for
from mmerc.features.text import TextEncoder
from mmerc.pipeline import Pipeline
from mmerc.storage import atomic_path

FORMAT = 1  # of the metadata
OPSET = 18
TOLERANCE = 1e-4
LARGEST = 2_000_000_000  # bytes in one file; protobuf ends at 2 GiB
STEPWISE = ("dialogue-rnn", "mfn")  # walk over time in Python, which a graph cannot repeat
DIALOGUES = ([2, 1, 4], [1], [3], [1, 7, 2, 2, 5])  # lengths: the first to trace on, the others to check on
TEXTS = (
    [["I am fine, are you?", "", "no"], ["what a day it was"]],
    [["hello"]],
    [["one " * 60, "two", "three words here"], ["x"], ["", "what a day"]],
)
INPUTS = {
    "present": "(N, M) bool: whether an utterance has a modality, in the order of `modalities`",
    "lengths": "(B,) int64: utterances of each dialogue, all at least 1; their sum is N",
    "speakers": "(N,) int64: who speaks, 0, 1, … by first appearance in the dialogue",
}
OUTPUTS = {
    "probabilities": "(N, K): of each emotion, in the order of `labels`",
    "contributions": "(N, M): reliability of each modality in [0, 1], 0 where it is missing",
    "context_weight": "(N,): how much of the dialogue entered",
}
TOKEN_INPUTS = {
    "input_ids": "(W, L) int64: windows of tokens, the special ones of `packing` around them, padded",
    "attention_mask": "(W, L) int64: 1 for tokens, 0 for padding",
    "rows": "(W, L) int64: the row that a token belongs to, -1 for special tokens and padding. A row is an "
    "utterance; with two scopes, the rows of the second follow those of the first, in windows of their own",
    "count": "() int64: the number N of utterances",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A written graph: its size, and by how much its outputs differ from the model's at most."""

    path: Path
    size: int
    difference: float


class _Graph(NamedTuple):
    """A module, its inputs with their dynamic axes, its outputs, and batches to trace and check it on."""

    module: nn.Module
    inputs: dict[str, dict[int, str]]
    outputs: list[str]
    batches: list[tuple[Tensor, ...]]


def export_onnx(checkpoint: str | Path, path: str | Path) -> Exported:
    """Write the network of a checkpoint, with its standardisation, as an ONNX file.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ConfigError: its network cannot be exported, or packages are missing.
    """
    found = load_checkpoint(checkpoint)
    run, info, pipeline = found.run, found.info, found.pipeline
    if run.model in STEPWISE:
        raise ConfigError(
            f"{run.model} cannot be exported: it walks over the utterances in a loop of Python, of which an "
            "ONNX graph keeps one length only. `mmerc serve` runs it as it is"
        )
    names = pipeline.network.modalities
    batches = [_draw(pipeline, {m: info.modalities[m].width for m in names}, x) for x in DIALOGUES]
    network = _Network(pipeline).eval()
    per_utterance = [*(f"features_{m}" for m in names), "present", "speakers"]
    axes = {name: {0: "utterances"} for name in per_utterance} | {"lengths": {0: "dialogues"}}
    inputs = {name: axes[name] for name in [*per_utterance[:-1], "lengths", "speakers"]}
    outputs = [name for name, x in zip(OUTPUTS, network.output(*batches[0]), strict=True) if x is not None]
    widths = {
        f"features_{m}": f"(N, {info.modalities[m].width}) float32: features of {m}; anything where missing"
        for m in names
    }
    metadata = {
        "kind": "network",
        "model": run.model,
        "preset": run.preset or "",
        "looks_ahead": bool(pipeline.network.looks_ahead and not run.network.get("causal")),
        "corpus": info.corpus,
        "labels": list(info.labels),
        "modalities": {m: info.modalities[m].model_dump(mode="json") for m in names},
        "inputs": widths | INPUTS,
        "outputs": {name: OUTPUTS[name] for name in outputs},
    }
    return _write(_Graph(network, inputs, outputs, batches), Path(path), metadata)


def export_text_encoder(checkpoint: str | Path, path: str | Path) -> Exported:
    """Write the text encoder of a checkpoint, trained along or frozen, as an ONNX file with its tokenizer.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        FeatureError: the frozen encoder cannot be loaded.
        ConfigError: the checkpoint has no text encoder, it cannot be exported, or packages are missing.
    """
    found = load_checkpoint(checkpoint)
    encoder = found.pipeline.encoder
    text = found.info.modalities.get("text")
    if encoder is None:
        if text is None or text.recipe.get("kind") != "text-encoder":
            raise ConfigError(
                f"{found.path} has no text encoder: it reads no text, or vectors made elsewhere"
            )
        encoder = encoder_for(text.recipe)
    tokenizer = encoder.tokenizer_json()
    if tokenizer is None:
        raise ConfigError(
            f"the text encoder of {found.path} cannot be exported: its tokenizer runs in Python only"
        )
    axes = {name: {0: "windows", 1: "tokens"} for name in list(TOKEN_INPUTS)[:-1]}
    batches: list[tuple[Tensor, ...]] = []
    for dialogues in TEXTS:
        windows = encoder.all_windows([encoder.tokenize(texts) for texts in dialogues])
        ids, mask, rows, _ = encoder.collate(windows)
        batches.append((ids, mask, rows, torch.tensor(sum(map(len, dialogues)))))
    metadata = {
        "kind": "text-encoder",
        "recipe": encoder.recipe,
        "tokenizer": tokenizer,
        "packing": encoder.packing,
        "inputs": TOKEN_INPUTS,
        "outputs": {"vectors": f"(N, {encoder.width}): 0 for an utterance without tokens"},
    }
    graph = _Graph(_Encoder(encoder).eval(), {**axes, "count": {}}, ["vectors"], batches)
    return _write(graph, Path(path), metadata)


class _Network(nn.Module):
    """A pipeline that takes and returns tensors; of an encoder that was trained along, its vectors."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for x in self.output(*inputs) if x is not None)

    def output(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        *features, present, lengths, speakers = inputs
        named = dict(zip(self.pipeline.network.modalities, features, strict=True))
        output = self.pipeline(Batch(named, present, lengths, speakers))
        return output.logits.float().softmax(dim=-1), output.contributions, output.context_weight


class _Encoder(nn.Module):
    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        vectors: Tensor = self.encoder([Tokens(input_ids, attention_mask, rows)], count)
        return vectors


def _draw(pipeline: Pipeline, widths: Mapping[str, int], lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """Draw features that look to the network like those it was trained on; some are missing."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = sum(lengths)
    features = []
    for name, width in widths.items():
        x = torch.randn(rows, width, generator=generator)
        if pipeline.standardizer is not None:
            scale = pipeline.standardizer.get_buffer(f"scale_{name}")
            x = torch.where(scale > 0, x / scale, 0.0) + pipeline.standardizer.get_buffer(f"mean_{name}")
        features.append(x)
    present = torch.rand(rows, len(widths), generator=generator) < 0.8
    speakers = torch.randint(0, 3, (rows,), generator=generator)
    return (*features, present, torch.tensor(lengths), speakers)


def _write(graph: _Graph, path: Path, metadata: Mapping[str, Any]) -> Exported:
    with needed("an export", "mmerc[onnx]"):
        import onnx
        import onnxruntime  # noqa: F401, wanted for the check; say so before the work
    size = sum(x.numel() * x.element_size() for x in graph.module.state_dict().values())
    if size > LARGEST:
        raise ConfigError(
            f"its weights take {size / 1e9:.1f} GB, an ONNX file holds {LARGEST / 1e9:.0f} GB at most"
        )
    with atomic_path(path) as temporary:
        _trace(graph, temporary)
        model = onnx.load(temporary)
        _declare_all_inputs(model, graph)
        said = {"mmerc_format": FORMAT, "mmerc_version": versions()["mmerc"], **metadata}
        for name, value in said.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            model.metadata_props.add(key=name, value=text)
        onnx.checker.check_model(model)
        onnx.save(model, temporary)
        difference = _difference(graph, temporary)
    return Exported(path, path.stat().st_size, difference)


def _trace(graph: _Graph, path: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings(), _operators():
        # What tracing fixes are numbers of modalities and layers; that it is no more, the check will show.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module,
            graph.batches[0],
            path,
            # The exporter that is to replace this one fixes the length of a dialogue in recurrences.
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_axes=graph.inputs | {name: {0: "utterances"} for name in graph.outputs},
        )


def _declare_all_inputs(model: Any, graph: _Graph) -> None:
    """Put back the inputs that a network does not read: every model is to be called in the same way."""
    from onnx import TensorProto, helper

    kinds = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64, torch.bool: TensorProto.BOOL}
    known = {value.name: value for value in model.graph.input}
    del model.graph.input[:]
    for (name, axes), example in zip(graph.inputs.items(), graph.batches[0], strict=True):
        shape = [axes.get(axis, size) for axis, size in enumerate(example.shape)]
        model.graph.input.append(
            known.get(name) or helper.make_tensor_value_info(name, kinds[example.dtype], shape)
        )


def _difference(graph: _Graph, path: Path) -> float:
    """Return by how much the file's outputs differ from the module's at most.

    Raises:
        ConfigError: by more than `TOLERANCE`, or the file cannot be run on a batch of another shape.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    worst = 0.0
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for batch in graph.batches:
            fed = {name: x.numpy() for name, x in zip(graph.inputs, batch, strict=True)}
            worst = max(worst, _distance(session.run(graph.outputs, fed), _outputs(graph.module, batch)))
    except (Fail, InvalidArgument, RuntimeException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"this model cannot be exported: its graph fails on another batch ({reason})"
        ) from None
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"this model cannot be exported: the graph's outputs differ by {worst:.2g} from the model's, "
            f"more than {TOLERANCE:g}"
        )
    return worst


@torch.no_grad()
def _outputs(module: nn.Module, batch: tuple[Tensor, ...]) -> list[npt.NDArray[np.float32]]:
    found = module(*batch)
    return [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]


def _distance(found: Sequence[npt.NDArray[np.float32]], wanted: Sequence[npt.NDArray[np.float32]]) -> float:
    if [x.shape for x in found] != [x.shape for x in wanted]:
        return float("inf")
    return max(float(np.abs(x - y).max()) for x, y in zip(found, wanted, strict=True))


@contextmanager
def _operators() -> Iterator[None]:
    """Teach the exporter two operators: one it has not, the other it gets wrong."""
    own: dict[str, Callable[..., Any]] = {"aten::unsafe_chunk": _chunk, "aten::index_add": _index_add}
    for name, symbolic in own.items():
        utils.register_custom_op_symbolic(name, symbolic, OPSET)
    try:
        yield
    finally:
        for name in own:
            utils.unregister_custom_op_symbolic(name, OPSET)


def _chunk(g: Any, x: Any, chunks: Any, dim: Any, _outputs: int | None = None) -> Any:
    """Split into equal parts, whatever the size (the exporter wants to know it)."""
    count = int(chunks.node().t("value"))
    return g.op("Split", x, axis_i=int(dim.node().t("value")), num_outputs_i=count, outputs=count)


def _index_add(g: Any, x: Any, dim: Any, index: Any, source: Any, alpha: Any = None) -> Any:
    """Add rows up by a product with the matrix of who belongs where.

    The exporter overwrites where an index comes twice, and onnxruntime's own sum by index is a race.
    """

    def constant(value: int | list[int]) -> Any:
        return g.op("Constant", value_t=torch.tensor(value))

    count = g.op("Gather", g.op("Shape", x), constant(0))
    slots = g.op("Unsqueeze", g.op("Range", constant(0), count, constant(1)), constant([1]))
    belongs = g.op("Equal", slots, g.op("Unsqueeze", index, constant([0])))
    return g.op("Add", x, g.op("MatMul", g.op("CastLike", belongs, source), source))
