"""The model card of a checkpoint: Markdown for people, and above it YAML that the Hugging Face Hub reads."""

from collections.abc import Iterator
from typing import Any, Final

from mmerc.checkpoint.info import CheckpointInfo
from mmerc.config import RunConfig
from mmerc.metrics import Scores

METRICS: Final = {  # ours → the kind that the Hub knows, and what it is called
    "weighted_f1": ("f1", "weighted F1"),
    "macro_f1": ("f1", "macro F1"),
    "accuracy": ("accuracy", "accuracy"),
}


def model_card(run: RunConfig, info: CheckpointInfo) -> str:
    """Return the model card of a trained checkpoint.

    Its licence is "unknown": mmerc does not know the terms of the data.
    """
    scores = {k: info.validation[k] for k in METRICS if k in info.validation}
    rows = "\n".join(f"| {m} | {x.width} | `{x.recipe}` |" for m, x in info.modalities.items())
    per_class = info.validation.get("per_class", {})
    classes = "\n".join(f"| {k} | {100 * v['f1']:.1f} | {v['support']} |" for k, v in per_class.items())
    fold = "" if info.fold is None else f", test fold {info.fold}"
    return f"""{front_matter(run, info)}
# {run.model}{f" ({run.preset})" if run.preset else ""} on {info.corpus}

Recognises the emotion of every utterance of a conversation: {", ".join(info.labels)}.
Trained with mmerc {info.versions["mmerc"]}, seed {info.seed}{fold}; commit {info.git_commit or "unknown"}.

| modality | width | recipe |
| --- | --- | --- |
{rows}

Scores on the **validation** split, on which epoch {info.epoch} was chosen (optimistic; `mmerc evaluate` gives
the test split's): {", ".join(f"{k.replace('_', ' ')} {100 * v:.2f}" for k, v in scores.items())}.

| emotion | F1 (validation) | utterances |
| --- | --- | --- |
{classes}

Limits: a label is what annotators read into an utterance, not what a person feels. The scores hold for
conversations like those of {info.corpus}. Not for decisions about people.

Terms: those of the data of {info.corpus} may reach these weights; mmerc does not know them.

Use: `mmerc predict MODEL chat.txt`, or `mmerc.load("MODEL").predict("chat.txt")`, where MODEL is this folder
or the model's name on the Hugging Face Hub.
"""


def front_matter(
    run: RunConfig,
    info: CheckpointInfo,
    *,
    test: Scores | None = None,
    name: str | None = None,
    license: str = "unknown",
    language: str | None = None,
) -> str:
    """Return the YAML of a card, between its two lines of dashes.

    Args:
        run: the config
        info: what the checkpoint says of itself
        test: scores on the test split, if they are known
        name: of the model
        license: as the Hub abbreviates it
        language: of the conversations, as a two-letter code, if it is known
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        language=language,
        license=license,
        library_name="mmerc",
        pipeline_tag=_task(info),
        tags=["emotion-recognition", "conversation", run.model, *sorted(info.modalities)],
        model_name=name or f"{run.model} on {info.corpus}",
        eval_results=list(_results(info, test)),
    )
    return f"---\n{data.to_yaml()}\n---\n"


def shared_card(
    card: str, run: RunConfig, info: CheckpointInfo, test: Scores | None, license: str | None
) -> str:
    """Return a card as it goes to the Hub: with YAML, the licence if one is given, and the scores on test.

    What people wrote into it stays.
    """
    from huggingface_hub import ModelCard, ModelCardData

    found = ModelCard(card if card.startswith("---") else front_matter(run, info) + "\n" + card)
    assert isinstance(found.data, ModelCardData)
    if license is not None:
        found.data.license = license
    there = found.data.eval_results or []
    if test is not None and not any(result.dataset_split == "test" for result in there):
        found.data.eval_results = [*there, *_results_on("test", test.to_dict(), info)]
    return str(found)


def _task(info: CheckpointInfo) -> str:
    """Return the Hub's word for what goes in; it has none for several modalities together."""
    kinds = ("text", "audio")
    return f"{next((kind for kind in kinds if kind in info.modalities), 'video')}-classification"


def _results(info: CheckpointInfo, test: Scores | None) -> Iterator[Any]:
    yield from _results_on("validation", info.validation, info)
    if test is not None:
        yield from _results_on("test", test.to_dict(), info)


def _results_on(split: str, scores: dict[str, Any], info: CheckpointInfo) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    for key in (key for key in METRICS if key in scores):
        kind, name = METRICS[key]
        yield EvalResult(
            task_type=_task(info),
            dataset_type=info.corpus,
            dataset_name=info.corpus,
            dataset_split=split,
            metric_type=kind,
            metric_name=name,
            metric_value=round(scores[key], 4),
        )
