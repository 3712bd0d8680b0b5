"""The scripted corpus says what it promises, and the truth beside it can be recovered from its data."""

import re
from itertools import combinations
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from mmerc.corpora.scripted import FLOOR, LABELS, MODALITIES, RELIABLE, SENSES, generate, read_phrases
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError

RELIABILITIES = [f"reliability_{modality}" for modality in MODALITIES]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return generate(tmp_path_factory.mktemp("scripted") / "corpus")


@pytest.fixture(scope="module")
def truth(corpus: Corpus) -> pd.DataFrame:
    return pd.read_parquet(corpus.path / "truth.parquet")


@pytest.fixture(scope="module")
def phrases() -> dict[str, Any]:
    return read_phrases()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        generate(tmp_path / name, seed=seed, dialogues=12)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[file] != other[file] for file in first)


def test_layout(corpus: Corpus, truth: pd.DataFrame) -> None:
    assert corpus.labels == LABELS
    assert {m: table.width for m, table in corpus.modalities.items()} == {"audio": 64, "visual": 48}
    sizes = {name: len(corpus.split(name)) for name in ("train", "validation", "test")}
    assert sizes == {"train": 168, "validation": 24, "test": 48}
    assert corpus.folds == ()
    keys = ["dialogue_id", "utterance_index"]
    assert list(truth.columns) == [*keys, *RELIABILITIES, "contradicts", "odd_modality", "context_dependent"]
    assert (truth[keys].to_numpy() == corpus.utterances[keys].to_numpy()).all()


def test_smallest_corpus_has_every_split(tmp_path: Path) -> None:
    corpus = generate(tmp_path / "small", dialogues=3)
    assert [len(corpus.split(name)) for name in ("train", "validation", "test")] == [1, 1, 1]


@pytest.mark.parametrize("wrong", [{"dialogues": 2}, {"seed": -1}])
def test_refuses_values_out_of_range(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
        generate(tmp_path / "corpus", **wrong)
    assert not list(tmp_path.iterdir())


def test_phrases_are_many_and_no_two_alike(phrases: dict[str, Any]) -> None:
    clear, ambiguous = phrases["clear"], phrases["ambiguous"]
    assert tuple(clear) == LABELS
    assert min(len(lines) for lines in clear.values()) >= 35
    assert len(ambiguous) >= 60
    lines = [line for group in clear.values() for line in group] + list(ambiguous)
    bare = [re.sub(r"[^a-z{}]+", " ", line.lower()).strip() for line in lines]
    assert len(set(bare)) == len(lines) >= 300
    assert {slot for line in lines for _, slot, _, _ in Formatter().parse(line)} == {None, "name", "thing"}


def test_ambiguous_phrases_fit_several_emotions_and_every_emotion_has_some(phrases: dict[str, Any]) -> None:
    for line, emotions in phrases["ambiguous"].items():
        assert len(set(emotions)) == len(emotions) >= 2, line
        assert set(emotions) <= set(LABELS), line
    assert all(sum(label in fits for fits in phrases["ambiguous"].values()) >= 15 for label in LABELS)


def test_dialogues_look_like_conversations(corpus: Corpus) -> None:
    lengths = np.diff(corpus.offsets)
    assert 1 <= lengths.min() <= 3
    assert 8 < lengths.mean() < 12
    assert lengths.max() <= 20
    for start, stop in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        rows = corpus.utterances.iloc[start:stop]
        assert rows["speaker"].nunique() <= 5
        begin, end = rows["start_ms"].to_numpy(dtype=int), rows["end_ms"].to_numpy(dtype=int)
        assert (begin < end).all()
        assert (begin[1:] > end[:-1]).all()
    shares = corpus.utterances["label"].value_counts(normalize=True)
    assert shares.idxmax() == "neutral"
    assert 0.28 < shares["neutral"] < 0.42
    assert shares.min() > 0.03


def test_reliability_of_text_is_what_its_line_gives_to_the_true_emotion(
    corpus: Corpus, truth: pd.DataFrame, phrases: dict[str, Any]
) -> None:
    fits = dict(phrases["ambiguous"])
    fits.update({line: [label] for label, lines in phrases["clear"].items() for line in lines})
    slots = {"name": "|".join(phrases["names"]), "thing": "|".join(phrases["things"])}
    patterns = [
        (re.compile(re.sub(r"\\{(\w+)\\}", lambda m: f"(?:{slots[m[1]]})", re.escape(line))), emotions)
        for line, emotions in fits.items()
        if "{" in line
    ]
    for text, label, reliability in zip(
        corpus.utterances["text"], corpus.utterances["label"], truth["reliability_text"], strict=True
    ):
        emotions = fits.get(text) or next(e for pattern, e in patterns if pattern.fullmatch(text))
        assert reliability == (1 / len(emotions) if label in emotions else 0.0), text


def test_missing_vectors_tell_nothing(corpus: Corpus, truth: pd.DataFrame) -> None:
    for modality in SENSES:
        present = corpus.features(modality)[1].numpy()
        assert 0.015 < 1 - present.mean() < 0.045
        assert (truth[f"reliability_{modality}"][~present] == 0).all()


def test_a_contradiction_has_one_odd_modality_and_a_reliable_witness(truth: pd.DataFrame) -> None:
    contradicts = truth["contradicts"]
    assert 0.12 < contradicts.mean() < 0.18
    assert (truth["odd_modality"].notna() == contradicts).all()
    for row in truth[contradicts].to_dict("records"):
        assert row[f"reliability_{row['odd_modality']}"] == 0
        assert max(row[name] for name in RELIABILITIES) > RELIABLE
    shares = truth["odd_modality"].value_counts(normalize=True)
    assert all(0.25 < shares[modality] < 0.42 for modality in MODALITIES)


def test_context_dependent_means_weak_by_itself_and_carried_by_a_readable_turn(
    corpus: Corpus, truth: pd.DataFrame
) -> None:
    context = truth["context_dependent"].to_numpy()
    strongest = truth[RELIABILITIES].max(axis=1).to_numpy()
    assert 0.17 < context.mean() < 0.23
    assert ((strongest <= RELIABLE) == context).all()
    labels, speakers = corpus.utterances["label"], corpus.utterances["speaker"]
    for start, stop in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        for row in range(start, stop):
            if context[row]:
                own = [r for r in range(start, row) if speakers[r] == speakers[row]][-1:]
                carriers = {row - 1, *own} - {start - 1}
                assert any(labels[r] == labels[row] and not context[r] for r in carriers)


def test_reliabilities_are_often_high_and_often_low_and_independent(truth: pd.DataFrame) -> None:
    free = truth[~truth["contradicts"] & ~truth["context_dependent"]][RELIABILITIES]
    reliable = free > RELIABLE
    assert reliable.mean().between(0.4, 0.75).all()
    # Slightly negative: at least one of them is reliable.
    assert (free.corr().to_numpy()[np.triu_indices(3, 1)] > -0.35).all()


@pytest.mark.parametrize("modality", SENSES)
def test_poor_vectors_give_themselves_away(corpus: Corpus, truth: pd.DataFrame, modality: str) -> None:
    values, present = corpus.features(modality)
    rows = present.numpy() & (truth["odd_modality"] != modality).to_numpy()
    reliability = truth[f"reliability_{modality}"][rows]
    floor = values.numpy()[rows, -FLOOR:].mean(axis=1)
    assert stats.spearmanr(floor, reliability).statistic < -0.7


@pytest.mark.parametrize("modality", SENSES)
def test_people_differ_by_a_constant(corpus: Corpus, modality: str) -> None:
    values, present = corpus.features(modality)
    frame = pd.DataFrame(values.numpy()[:, :-FLOOR].astype(float))[present.numpy()]
    people = corpus.utterances[["dialogue_id", "speaker"]].agg("/".join, axis=1)[present.numpy()]
    groups = frame.groupby(people.to_numpy())
    many = (groups.size() >= 5).to_numpy()
    between = np.linalg.norm(groups.mean()[many] - frame.mean(), axis=1).mean()
    assert 3.5 < between < 5.5  # the offset's length, 4, and what is left of noise and emotions


@pytest.mark.parametrize("modality", SENSES)
def test_some_emotions_look_or_sound_alike(corpus: Corpus, truth: pd.DataFrame, modality: str) -> None:
    values = corpus.features(modality)[0].numpy()[:, :-FLOOR]
    clear = (truth[f"reliability_{modality}"] > RELIABLE).to_numpy()
    means = np.array([values[clear & (corpus.targets == k)].mean(axis=0) for k in range(len(LABELS))])
    distance = {
        frozenset((LABELS[a], LABELS[b])): float(np.linalg.norm(means[a] - means[b]))
        for a, b in combinations(range(len(LABELS)), 2)
    }
    alike = {frozenset(pair) for pair in SENSES[modality].lookalikes}
    assert max(distance[pair] for pair in alike) < min(distance[pair] for pair in distance.keys() - alike)


class Study(NamedTuple):
    """Linear classifiers trained on the training split: what one can read from the data without tricks."""

    targets: np.ndarray
    test: np.ndarray  # (N,) bool
    present: dict[str, np.ndarray]
    posteriors: dict[str, np.ndarray]  # (N, K) per modality
    scores: dict[str, float]  # weighted F1 in percent on the test split


def linear_features(corpus: Corpus, train: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    texts = corpus.utterances["text"]
    matrices = {"text": TfidfVectorizer(sublinear_tf=True).fit(texts[train]).transform(texts)}
    present = {"text": np.ones(len(corpus), dtype=bool)}
    for modality in SENSES:
        values, there = (tensor.numpy() for tensor in corpus.features(modality))
        scaled = StandardScaler().fit(values[train & there]).transform(values)
        matrices[modality] = sparse.csr_matrix(np.where(there[:, None], scaled, 0.0) / 10)
        present[modality] = there
    return matrices, present


def earlier_rows(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Return the row before and the row of the speaker's last turn, (N,) each; -1 for none."""
    keys = corpus.utterances[["dialogue_id", "speaker"]].assign(row=np.arange(len(corpus)))
    before = keys.groupby("dialogue_id")["row"].shift(fill_value=-1)
    own = keys.groupby(["dialogue_id", "speaker"])["row"].shift(fill_value=-1)
    return before.to_numpy(), own.to_numpy()


@pytest.fixture(scope="module")
def study(corpus: Corpus) -> Study:
    split = corpus.utterances["split"].to_numpy()
    train, test, targets = split == "train", split == "test", corpus.targets
    matrices, present = linear_features(corpus, train)
    posteriors, scores = {}, {}

    def fit(name: str, matrix: Any, strength: float) -> np.ndarray:
        model = LogisticRegression(C=strength, max_iter=2000).fit(matrix[train], targets[train])
        scores[name] = 100 * f1_score(targets[test], model.predict(matrix[test]), average="weighted")
        return model.predict_proba(matrix)

    for modality in MODALITIES:
        posteriors[modality] = fit(modality, matrices[modality], 3.0 if modality == "text" else 1.0)
    joint = sparse.hstack([matrices[m] for m in MODALITIES]).tocsr()
    fit("joint", joint, 3.0)
    padded = sparse.vstack([joint, sparse.csr_matrix((1, joint.shape[1]))]).tocsr()
    earlier = [0.5 * padded[rows] for rows in earlier_rows(corpus)]
    fit("context", sparse.hstack([joint, *earlier]).tocsr(), 3.0)
    return Study(targets, test, present, posteriors, scores)


def test_modalities_complement_each_other(study: Study) -> None:
    """Proves that fusion pays: no modality is enough, all three are far better than the best one."""
    singles = [study.scores[modality] for modality in MODALITIES]
    assert all(40 < score < 62 for score in singles)
    assert study.scores["joint"] > max(singles) + 8
    assert study.scores["joint"] < 78


def test_conversation_helps(study: Study) -> None:
    """Proves that context pays: even a linear model gains from the turns before."""
    assert study.scores["context"] > study.scores["joint"] + 1


def test_disagreement_of_modalities_reveals_contradictions(study: Study, truth: pd.DataFrame) -> None:
    """Proves that contradictions are detectable: modalities agree less where one of them is odd."""
    cosines = []
    for a, b in combinations(MODALITIES, 2):
        p, q = study.posteriors[a], study.posteriors[b]
        cosine = (p * q).sum(axis=1) / (np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1))
        cosines.append(np.where(study.present[a] & study.present[b], cosine, np.nan))
    several = ~np.isnan(cosines).all(axis=0)
    judged = study.test & several & ~truth["context_dependent"].to_numpy()
    agreement = np.nanmean(np.array(cosines)[:, judged], axis=0)
    assert roc_auc_score(truth["contradicts"][judged], -agreement) > 0.77


@pytest.mark.parametrize("modality", MODALITIES)
def test_reliability_shows_in_the_probability_of_the_true_class(
    study: Study, truth: pd.DataFrame, modality: str
) -> None:
    """Proves that the stored reliability is real: a reliable modality gives more to the true emotion."""
    judged = study.test & study.present[modality]
    probability = study.posteriors[modality][judged, study.targets[judged]]
    reliability = truth[f"reliability_{modality}"][judged]
    assert stats.spearmanr(probability, reliability).statistic > 0.5
