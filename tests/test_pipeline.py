from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import CLASSES, SMALL, WIDTHS, make_batch, modalities_of, take
from mmerc.batch import Tokens
from mmerc.conversation import Conversation, Utterance
from mmerc.examples import Examples
from mmerc.features.text import TextEncoder
from mmerc.models import resolve
from mmerc.models.base import Network, Output
from mmerc.pipeline import Pipeline, Standardizer, build_pipeline
from tiny import make_bert

LENGTHS = [2, 5, 1, 3, 4, 1]


def make_examples(model: str = "df-erc", seed: int = 0) -> Examples:
    batch = make_batch(LENGTHS, modalities_of(model), seed=seed, missing=0.2, unlabelled=0.2)
    offsets = np.cumsum([0, *LENGTHS])
    return Examples(batch.features, batch.present, offsets, batch.speakers, batch.labels)


def make_pipeline(model: str = "df-erc", standardize: bool = True) -> Pipeline:
    run = resolve(model, {"network": SMALL[model], "training": {"standardize": standardize}})
    torch.manual_seed(0)
    return build_pipeline(run, {m: WIDTHS[m] for m in modalities_of(model)}, CLASSES)


class Recorder(Network):
    """A network that hands its features back."""

    def forward(self, batch):
        return Output(torch.cat([batch.features[m] for m in self.modalities], dim=1), {})


def test_before_fit_standardising_only_clips() -> None:
    standardizer = Standardizer({"a": 2}, clip=5.0)
    x = torch.tensor([[1.0, -7.0]])
    assert standardizer("a", x).tolist() == [[1.0, -5.0]]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(3, 30),
    shift=st.sampled_from([0.0, 3.0, -1e3]),
    scale=st.sampled_from([1e-2, 1.0, 1e3]),
)
def test_present_rows_get_mean_0_and_sd_1(seed: int, rows: int, shift: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, 3, generator=generator, dtype=torch.float64) * scale + shift
    present = torch.rand(rows, generator=generator) < 0.7
    present[:3] = True
    values[~present] = 1e6
    standardizer = Standardizer({"a": 3}, clip=100.0)
    known = values[present]
    standardizer.fit("a", [known])
    sd = known.std(dim=0, correction=0)
    # A column that varies less than float32 can tell from rounding counts as constant; it has its own test.
    assume(bool((sd > 2e-6 * known.abs().mean(dim=0)).all()))
    expected = (known - known.mean(dim=0)) / sd
    scaled = standardizer.double()("a", known)
    # The buffers are float32, so a mean of 1000 is only known to 0.00003.
    tolerance = 1e-4 + 1e-7 * abs(shift) / float(sd.min())
    torch.testing.assert_close(scaled, expected, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("chunk", [1, 7, 64, 199])
def test_statistics_do_not_depend_on_chunks(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 4, generator=generator) * torch.tensor([1.0, 1e-3, 1e3, 0.0])
    values += torch.tensor([0.0, 5.0, -1e4, 3.0])
    present = torch.rand(200, generator=generator) < 0.8
    standardizers = {size: Standardizer({"a": 4}, clip=5.0).double() for size in (200, chunk)}
    for size, standardizer in standardizers.items():
        standardizer.fit("a", torch.split(values[present], size))
    whole, parts = (standardizer.state_dict() for standardizer in standardizers.values())
    rows = values[present].double()
    assert torch.equal(whole["mean_a"], rows.mean(dim=0))  # a small corpus: not a bit is different
    assert torch.equal(whole["scale_a"][:3], 1 / rows.std(dim=0, correction=0)[:3])
    assert parts["scale_a"][3] == 0
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e4, 1e-9])
def test_a_constant_column_becomes_zero(value: float) -> None:
    values = torch.full((7, 2), value)
    values[:, 1] = torch.arange(7.0)
    standardizer = Standardizer({"a": 2}, clip=5.0)
    standardizer.fit("a", [values])
    assert (standardizer("a", values)[:, 0] == 0).all()
    assert (standardizer("a", values + 1)[:, 0] == 0).all()
    assert (standardizer("a", values)[:, 1] != 0).any()


def test_standardised_values_are_clipped() -> None:
    standardizer = Standardizer({"a": 1}, clip=2.0)
    standardizer.fit("a", [torch.tensor([[-1.0], [1.0]])])
    assert standardizer("a", torch.tensor([[1e9], [-1e9], [1.5]])).flatten().tolist() == [2, -2, 1.5]


def test_a_modality_that_is_never_present_stays_as_it_is() -> None:
    standardizer = Standardizer({"a": 1}, clip=5.0)
    standardizer.fit("a", [torch.ones(0, 1)])
    assert standardizer("a", torch.tensor([[3.0]])).item() == 3


def test_statistics_are_those_of_the_given_dialogues() -> None:
    examples, pipeline = make_examples(), make_pipeline()
    pipeline.fit(examples, np.array([0, 3]))
    rows = [0, 1, 8, 9, 10]
    for column, name in enumerate(WIDTHS):
        mine = examples.features[name][[r for r in rows if examples.present[r, column]]]
        torch.testing.assert_close(pipeline.standardizer.get_buffer(f"mean_{name}"), mine.mean(dim=0))
    other = make_pipeline()
    for name in WIDTHS:
        examples.features[name][11:] = 1e5
    other.fit(examples, np.array([3, 0]))
    for name, value in pipeline.standardizer.state_dict().items():
        torch.testing.assert_close(other.standardizer.state_dict()[name], value)


@pytest.mark.parametrize("content", [0.0, 1e6, float("nan"), float("inf")])
def test_absent_rows_are_zero_after_standardising(content: float) -> None:
    examples = make_examples()
    for column, values in enumerate(examples.features.values()):
        values[~examples.present[:, column]] = content
    pipeline = Pipeline(Recorder(WIDTHS, CLASSES), WIDTHS, None, 5.0)
    pipeline.fit(examples, np.arange(6))
    seen = pipeline(examples.batch(np.arange(6))).logits.split([*WIDTHS.values()], dim=1)
    for column, values in enumerate(seen):
        absent = ~examples.present[:, column]
        assert absent.any()
        assert (values[absent] == 0).all()
        torch.testing.assert_close(
            values[~absent].mean(dim=0), torch.zeros(values.shape[1]), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("model", ["df-erc", "late-fusion", "text-only"])
@settings(max_examples=15)
@given(
    dialogues=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    batch_size=st.integers(1, 9),
)
def test_inference_keeps_the_order_asked_for(model: str, dialogues: list[int], batch_size: int) -> None:
    examples, pipeline = make_examples(model), make_pipeline(model)
    pipeline.fit(examples, np.arange(6))
    done: list[int] = []
    result = pipeline.infer(examples, np.array(dialogues), batch_size, done.append)
    pipeline.eval()
    outputs = [pipeline(examples.batch(np.array([d]))) for d in dialogues]
    expected = torch.cat([o.logits for o in outputs]).softmax(dim=1)
    np.testing.assert_allclose(result.probabilities, expected.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-6)
    for field in ("contributions", "context_weight"):
        if getattr(outputs[0], field) is None:
            assert getattr(result, field) is None
        else:
            each = torch.cat([getattr(o, field) for o in outputs]).detach().numpy()
            np.testing.assert_allclose(getattr(result, field), each, atol=1e-6)
    assert sum(done) == len(dialogues)
    assert max(done) <= batch_size


@pytest.mark.parametrize("training", [True, False])
def test_inference_restores_the_mode_and_looks_at_no_label(training: bool) -> None:
    examples, pipeline = make_examples(), make_pipeline()
    pipeline.train(training)
    state = {k: v.clone() for k, v in pipeline.state_dict().items()}
    first = pipeline.infer(examples, np.arange(6))
    assert examples.labels is not None
    examples.labels.fill_(0)
    second = pipeline.infer(examples, np.arange(6))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert pipeline.training == training
    assert all(torch.equal(v, state[k]) for k, v in pipeline.state_dict().items())


def test_standardising_survives_a_state_dict() -> None:
    examples, one, two = make_examples(), make_pipeline(), make_pipeline()
    one.fit(examples, np.arange(6))
    two.load_state_dict(one.state_dict())
    results = [p.infer(examples, np.arange(6)).probabilities for p in (one, two)]
    np.testing.assert_array_equal(*results)


def test_without_standardising_features_pass_as_they_are() -> None:
    pipeline = Pipeline(Recorder(WIDTHS, CLASSES), WIDTHS, None, None)
    batch = make_batch([2, 1])
    pipeline.fit(make_examples(), np.arange(6))
    torch.testing.assert_close(pipeline(batch).logits, torch.cat([*batch.features.values()], dim=1))


class LetterEncoder(nn.Module):
    """A text encoder in small: an utterance's vector is the mean embedding of its letters."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(26, self.width)

    def forward(self, blocks: Sequence[Tokens], count: int) -> Tensor:
        (tokens,) = blocks
        members = (tokens.rows.flatten()[None, :] == torch.arange(count)[:, None]).float()
        return (
            members @ self.letters(tokens.input_ids.flatten()) / members.sum(dim=1, keepdim=True).clamp(min=1)
        )


def test_a_text_encoder_takes_the_place_of_text_vectors() -> None:
    encoder = LetterEncoder()
    pipeline = Pipeline(Recorder(WIDTHS, CLASSES), WIDTHS, encoder, 5.0)  # type: ignore[arg-type]  # a stand-in
    names = {name for name, _ in pipeline.standardizer.named_buffers()}
    assert names == {f"{what}_{m}" for what in ("mean", "scale") for m in WIDTHS}
    batch = make_batch([2, 1])
    features = {m: x for m, x in batch.features.items() if m != "text"}
    ids, rows = torch.tensor([[0, 1, 5]]), torch.tensor([[0, 0, 1]])
    present = batch.present.clone()
    present[2, 1] = False
    tokens = (Tokens(ids, torch.ones_like(ids), rows),)
    seen = pipeline(batch._replace(features=features, present=present, tokens=tokens)).logits
    letters = encoder.letters.weight
    expected = torch.stack([(letters[0] + letters[1]) / 2, letters[5], torch.zeros(6)])
    torch.testing.assert_close(seen[:, 5:11], expected)
    groups = [(name, inside) for name, _, inside in pipeline.parameter_groups()]
    assert groups == [("encoder.letters.weight", True)]


def test_parameter_groups_name_what_is_trained() -> None:
    pipeline = make_pipeline()
    frozen = next(pipeline.parameters())
    frozen.requires_grad_(False)
    groups = [*pipeline.parameter_groups()]
    assert all(not inside for _, _, inside in groups)
    assert {id(p) for _, p, _ in groups} == {id(p) for p in pipeline.parameters()} - {id(frozen)}


def test_one_dialogue_through_the_pipeline_equals_its_rows_among_others() -> None:
    pipeline, examples = make_pipeline().eval(), make_examples()
    whole = pipeline(examples.batch(np.arange(6))).logits
    alone = pipeline(take(examples.batch(np.arange(6)), [1])).logits
    torch.testing.assert_close(whole[2:7], alone, rtol=0, atol=1e-6)


def test_the_vectors_of_a_trained_encoder_are_standardised_by_its_first_ones(tmp_path: Path) -> None:
    encoder = TextEncoder.load(str(make_bert(tmp_path / "bert")))
    texts = ["the train is late", "", "great", "oh no", "it is fine", "late again"]
    conversations = [Conversation(tuple(Utterance(t) for t in texts[i : i + 3])) for i in (0, 3)]
    widths = {"text": encoder.width}
    pipeline = Pipeline(Recorder(widths, CLASSES), widths, encoder, 5.0)
    examples = Examples.from_conversations(conversations, widths, encoder)
    pipeline.train()
    pipeline.fit(examples, np.arange(2))
    assert encoder.training
    vectors = pipeline.eval()(examples.batch(np.arange(2))).logits
    spoken = examples.present[:, 0]
    torch.testing.assert_close(vectors[spoken].mean(dim=0), torch.zeros(encoder.width), atol=1e-5, rtol=0)
    assert not vectors[~spoken].any()
