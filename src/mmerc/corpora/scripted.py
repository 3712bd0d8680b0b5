"""The embedded corpus: scripted conversations in which the reliability of every modality is known.

Everything is drawn from a seed, in four steps:

* **Script**: who speaks and what they feel. A feeling is kept from the speaker's own last turn
  (inertia), caught from the utterance before (contagion), or drawn from a skewed prior.
* **Plan**: which modalities are missing, which are reliable, which one contradicts, and which
  utterances only the conversation can explain.
* **Text**: a clear line of the shown emotion when reliable, else a line that fits several emotions.
* **Vectors** for audio and video: the prototype of the shown emotion in proportion to the
  reliability, an offset of the person, and noise. Some emotions look (or sound) alike. A poor vector
  gives itself away: its noise is louder, and its last `FLOOR` entries measure that noise.

`truth.parquet` has one row per utterance:

* `dialogue_id`, `utterance_index`: as in `utterances.parquet`.
* `reliability_text`, `reliability_audio`, `reliability_visual`: in [0, 1], how much this modality alone
  tells the true emotion. For text it is the probability that the line gives to the true emotion when
  all emotions the line fits are equally likely: 1 for a clear line, 1/k for a line that fits k
  emotions. For audio and visual it is the share of the true prototype's amplitude that the vector
  carries: 1 would be a perfect recording. It is 0 where the modality is missing or contradicts.
* `contradicts`, `odd_modality`: exactly one modality clearly shows another emotion, and which one;
  at least one further modality is reliable then and shows the true emotion.
* `context_dependent`: no modality is reliable (all reliabilities are at most `RELIABLE`), and the emotion
  is that of the speaker's last turn or of the utterance before, which is not context-dependent itself.

Reliabilities of the modalities are drawn independently, except that an utterance which is not
context-dependent has at least one reliable modality, and a contradictory one at least two clear ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from mmerc.corpus import Corpus, Features, write_corpus
from mmerc.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
PRIOR = (0.35, 0.12, 0.07, 0.10, 0.17, 0.07, 0.12)
MODALITIES = ("text", "audio", "visual")
SMALLEST = 3  # dialogues: one for each split

INERTIA, CONTAGION = 0.55, 0.20
MISSING_SHARE = 0.03
RELIABLE_SHARE = 0.54  # of the modalities, where nothing else decides
CONTRADICTION_SHARE = 0.19  # of the utterances that are not context-dependent: 15 % of all
CONTEXT_SHARE = 0.43  # of the utterances whose emotion is carried on: 20 % of all, as none follows another
RELIABLE = 0.5  # a modality above this is reliable
POOR, CLEAN = (1.5, 5.0), (5.0, 1.2)  # Beta distributions of the reliability below and above it

SIGNAL = 5.0  # length of an emotion's prototype
PERSON = 4.0  # length of a person's offset
NOISE_CLEAN, NOISE_POOR = 0.6, 1.0  # standard deviation per entry at reliability 1 and 0
FLOOR, FLOOR_JITTER = 4, 0.1  # entries at the end of a vector that measure the noise level, and how well


@dataclass(frozen=True, slots=True)
class Sense:
    """A kind of vector: its width, and the pairs of emotions that are hard to tell apart in it."""

    width: int
    lookalikes: tuple[tuple[str, str], ...]
    likeness: float = 0.8  # cosine between the prototypes of a pair

    def groups(self) -> Ints:
        """Return a group number for each emotion, (K,); the two emotions of a pair have the same."""
        first = {b: a for a, b in self.lookalikes}
        return np.array([LABELS.index(first.get(label, label)) for label in LABELS])


SENSES = {
    "audio": Sense(64, (("joy", "anger"), ("neutral", "sadness"))),
    "visual": Sense(48, (("surprise", "fear"), ("sadness", "disgust"))),
}


class Plan(NamedTuple):
    """What the modalities do in each utterance; columns follow `MODALITIES`."""

    present: Bools  # (N, 3)
    reliable: Bools  # (N, 3) it clearly shows an emotion: the true one, or another where it is odd
    odd: Ints  # (N,) column of the contradicting modality, -1 for none
    context: Bools  # (N,)


def generate(path: str | Path, *, seed: int = 0, dialogues: int = 240) -> Corpus:
    """Write the scripted corpus with its `audio` and `visual` vectors, and open it.

    The same seed writes the same corpus. Vectors for the texts are left to the caller.

    Args:
        path: the corpus folder to write.
        seed: what everything is drawn from, the prototypes of the emotions included.
        dialogues: how many; the first 70 % are for training, 10 % for validation, 20 % for the test.

    Raises:
        ConfigError: fewer than `SMALLEST` dialogues, or a negative seed.
        CorpusError: there is a folder at `path` that is not a corpus.
    """
    if dialogues < SMALLEST:
        raise ConfigError(f"dialogues is {dialogues}: give at least {SMALLEST}, one for each split")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: give 0 or more")
    rng = np.random.default_rng(seed)
    phrases = read_phrases()
    script = _write_script(rng, dialogues, phrases["names"])
    emotion = script["emotion"].to_numpy(dtype=np.int64)
    plan = _make_plan(rng, script["source"].to_numpy(dtype=np.int64))
    shown = _shown_emotions(rng, emotion, plan)
    script["text"], fits = _speak(rng, phrases, script["listener"], shown[:, 0], plan.reliable[:, 0])
    script["start_ms"], script["end_ms"] = _clock(rng, script)
    script["label"] = np.array(LABELS)[emotion]
    script["split"] = _splits(script["dialogue"].to_numpy(dtype=np.int64), dialogues)

    quality = np.column_stack([1.0 / fits, *(_draw_quality(rng, plan.reliable[:, c]) for c in (1, 2))])
    person = script["person"].to_numpy(dtype=np.int64)
    features = {}
    for column, (modality, sense) in enumerate(SENSES.items(), start=1):
        values = _sense(rng, sense, shown[:, column], quality[:, column], person)
        recipe = {"kind": "scripted", "modality": modality, "seed": seed}
        features[modality] = Features(values, plan.present[:, column], recipe)
    return write_corpus(
        path,
        name="scripted",
        labels=LABELS,
        utterances=script,
        features=features,
        provenance={"source": "scripted", "seed": seed, "dialogues": dialogues},
        tables={"truth": _truth(script, plan, quality)},
    )


def read_phrases() -> dict[str, Any]:
    """Return the lines of the corpus: `clear` by emotion, `ambiguous` with emotions, `things`, `names`."""
    file = resources.files("mmerc.corpora").joinpath("scripted_phrases.yaml")
    phrases: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    return phrases


def _write_script(rng: np.random.Generator, dialogues: int, names: Sequence[str]) -> pd.DataFrame:
    """Draw people, turns and feelings; `source` is the row whose feeling is carried on, -1 for none."""
    rows: list[dict[str, Any]] = []
    people = 0
    for number in range(dialogues):
        length = _draw_length(rng)
        members = min(int(rng.choice([2, 3, 4, 5], p=[0.45, 0.30, 0.15, 0.10])), length)
        cast = [str(name) for name in rng.choice(names, size=max(members, 2), replace=False)]
        turns = _take_turns(rng, length, members)
        first = len(rows)
        for index, (speaker, (emotion, source)) in enumerate(zip(turns, _feel(rng, turns), strict=True)):
            others = [name for name in cast if name != cast[speaker]]
            rows.append(
                {
                    "dialogue_id": f"scripted-{number:04d}",
                    "dialogue": number,
                    "utterance_index": index,
                    "speaker": cast[speaker],
                    "listener": others[int(rng.integers(len(others)))],
                    "person": people + speaker,
                    "emotion": emotion,
                    "source": -1 if source is None else first + source,
                }
            )
        people += members
    return pd.DataFrame(rows)


def _draw_length(rng: np.random.Generator) -> int:
    if rng.random() < 0.05:
        return int(rng.integers(1, 4))
    return 4 + round(16 * rng.beta(1.6, 2.4))


def _take_turns(rng: np.random.Generator, length: int, members: int) -> list[int]:
    """Return who speaks: often the one who spoke before last, at times the same again, some talk more."""
    talkative = rng.dirichlet(np.full(members, 3.0))
    turns: list[int] = []
    for _ in range(length):
        chance = rng.random()
        if turns and (chance < 0.15 or members == 1):
            turns.append(turns[-1])
        elif len(turns) > 1 and chance < 0.55 and turns[-2] != turns[-1]:
            turns.append(turns[-2])
        else:
            weights = talkative.copy()
            if turns:
                weights[turns[-1]] = 0.0
            turns.append(int(rng.choice(members, p=weights / weights.sum())))
    return turns


def _feel(rng: np.random.Generator, turns: Sequence[int]) -> list[tuple[int, int | None]]:
    """Return the emotion of each turn, and the turn that it is carried on from, if any."""
    feelings: list[tuple[int, int | None]] = []
    last_turn: dict[int, int] = {}
    for index, speaker in enumerate(turns):
        chance = rng.random()
        source = None
        if chance < INERTIA:
            source = last_turn.get(speaker)
        elif chance < INERTIA + CONTAGION and index:
            source = index - 1
        emotion = int(rng.choice(len(LABELS), p=PRIOR)) if source is None else feelings[source][0]
        feelings.append((emotion, source))
        last_turn[speaker] = index
    return feelings


def _make_plan(rng: np.random.Generator, source: Ints) -> Plan:
    size = (len(source), len(MODALITIES))
    present = rng.random(size) >= MISSING_SHARE
    present[:, 0] = True
    context = _choose_context(rng, source)
    contradicts = ~context & (present.sum(axis=1) > 1) & (rng.random(len(source)) < CONTRADICTION_SHARE)

    # A random order of the modalities that are there: the first must be reliable wherever the context
    # does not decide, and in a contradiction the second one too, to bear witness against the first.
    order = np.argsort(np.where(present, rng.random(size), 2.0), axis=1)
    rows = np.arange(len(source))
    reliable = present & (rng.random(size) < RELIABLE_SHARE)
    silent = ~reliable.any(axis=1)
    reliable[rows, order[:, 0]] |= silent | contradicts
    reliable[rows, order[:, 1]] |= contradicts
    reliable[context] = False
    return Plan(present, reliable, np.where(contradicts, order[:, 0], -1), context)


def _choose_context(rng: np.random.Generator, source: Ints) -> Bools:
    """Choose utterances that the conversation alone explains, none of them by another such one."""
    wanted = rng.random(len(source)) < CONTEXT_SHARE
    context = np.zeros(len(source), dtype=bool)
    for row in np.flatnonzero(wanted & (source >= 0)):
        context[row] = not context[source[row]]
    return context


def _shown_emotions(rng: np.random.Generator, emotion: Ints, plan: Plan) -> Ints:
    """Return the emotion that each modality shows, (N, 3): the true one but for contradictions.

    An odd modality does not show an emotion that it could hardly tell from the true one.
    """
    shown = np.repeat(emotion[:, None], len(MODALITIES), axis=1)
    alike = [np.arange(len(LABELS)), *(sense.groups() for sense in SENSES.values())]
    for row in np.flatnonzero(plan.odd >= 0):
        groups = alike[plan.odd[row]]
        shown[row, plan.odd[row]] = rng.choice(np.flatnonzero(groups != groups[emotion[row]]))
    return shown


def _speak(
    rng: np.random.Generator, phrases: dict[str, Any], listeners: pd.Series, emotion: Ints, clear: Bools
) -> tuple[list[str], Ints]:
    """Return a line for each utterance, and how many emotions the line fits, (N,)."""
    vague = {label: [p for p, fits in phrases["ambiguous"].items() if label in fits] for label in LABELS}
    texts, counts = [], []
    for listener, label, is_clear in zip(listeners, np.array(LABELS)[emotion], clear, strict=True):
        choices = phrases["clear"][label] if is_clear else vague[label]
        phrase = choices[int(rng.integers(len(choices)))]
        thing = phrases["things"][int(rng.integers(len(phrases["things"])))]
        texts.append(phrase.format(name=listener, thing=thing))
        counts.append(1 if is_clear else len(phrases["ambiguous"][phrase]))
    return texts, np.array(counts, dtype=np.int64)


def _draw_quality(rng: np.random.Generator, reliable: Bools) -> Floats:
    """Draw from a mixture of two Betas, one on each side of `RELIABLE`; the means are 0.12 and 0.90."""
    low, high = rng.beta(*POOR, len(reliable)), rng.beta(*CLEAN, len(reliable))
    return np.where(reliable, RELIABLE + (1 - RELIABLE) * high, RELIABLE * low)


def _sense(
    rng: np.random.Generator, sense: Sense, shown: Ints, quality: Floats, person: Ints
) -> npt.NDArray[np.float32]:
    """Return one vector per utterance, (N, width): emotional content, then the noise floor."""
    width = sense.width - FLOOR
    offsets = rng.standard_normal((int(person.max()) + 1, width))
    offsets *= PERSON / np.linalg.norm(offsets, axis=1, keepdims=True)
    level = NOISE_POOR + (NOISE_CLEAN - NOISE_POOR) * quality
    content = SIGNAL * quality[:, None] * _prototypes(rng, sense, width)[shown] + offsets[person]
    content += level[:, None] * rng.standard_normal(content.shape)
    floor = level[:, None] + FLOOR_JITTER * rng.standard_normal((len(shown), FLOOR))
    return np.concatenate([content, floor], axis=1).astype(np.float32)


def _prototypes(rng: np.random.Generator, sense: Sense, width: int) -> Floats:
    """Return a unit vector per emotion, (K, width): orthogonal, but for the pairs that look alike."""
    directions = np.linalg.qr(rng.standard_normal((width, 2 * len(LABELS)))).Q.T
    common, own = directions[: len(LABELS)][sense.groups()], directions[len(LABELS) :]
    likeness = np.where(np.isin(LABELS, sense.lookalikes), sense.likeness, 0.0)[:, None]
    return np.asarray(np.sqrt(likeness) * common + np.sqrt(1 - likeness) * own, dtype=np.float64)


def _clock(rng: np.random.Generator, script: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return start and end in milliseconds: about 15 characters a second, and a short pause between."""
    tempo = rng.lognormal(0.0, 0.2, len(script))
    spoken = (400 + 65 * tempo * script["text"].str.len()).round().astype("int64")
    pause = pd.Series(rng.integers(80, 900, len(script)), index=script.index)
    end = (spoken + pause).groupby(script["dialogue"]).cumsum()
    return end - spoken, end


def _splits(dialogue: Ints, dialogues: int) -> npt.NDArray[np.str_]:
    """Return the split of each utterance; dialogues are alike, so their order can decide."""
    test = max(1, round(0.2 * dialogues))
    validation = max(1, round(0.1 * dialogues))
    bounds = [dialogues - test - validation, dialogues - test]
    return np.array(["train", "validation", "test"])[np.searchsorted(bounds, dialogue, side="right")]


def _truth(script: pd.DataFrame, plan: Plan, quality: Floats) -> pd.DataFrame:
    contradicts = plan.odd >= 0
    odd = np.arange(len(MODALITIES)) == plan.odd[:, None]
    reliability = np.where(plan.present & ~odd, quality, 0.0)
    truth = script[["dialogue_id", "utterance_index"]].copy()
    for column, modality in enumerate(MODALITIES):
        truth[f"reliability_{modality}"] = reliability[:, column]
    truth["contradicts"] = contradicts
    truth["odd_modality"] = [MODALITIES[column] if column >= 0 else None for column in plan.odd]
    truth["context_dependent"] = plan.context
    return truth
