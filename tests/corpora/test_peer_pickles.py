import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmerc.corpora.checking import check
from mmerc.corpora.peer_layouts import LABELS
from mmerc.corpora.peer_pickles import import_pickle
from mmerc.corpus import draw_validation
from mmerc.errors import CorpusError
from peer_files import IEMOCAP, LAYOUTS, MELD, WIDTHS, make, save

REAL_MELD = Path(__file__).resolve().parents[2] / "../shared/data/meld"


@pytest.fixture
def imported(tmp_path):
    def run(fields, **options):
        return import_pickle([save(tmp_path / "features.pkl", fields)], tmp_path / "out", **options)

    return run


def rejected(imported, fields, **options):
    with pytest.raises(CorpusError) as caught:
        imported(fields, **options)
    return str(caught.value)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("as_arrays", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised_and_read_field_by_field(tmp_path, layout, as_arrays, protocol):
    fields = make(layout, as_arrays=as_arrays)
    corpus = import_pickle([save(tmp_path / "x.pkl", fields, protocol)], tmp_path / "out")
    name = layout.partition("-")[0]
    assert corpus.manifest.provenance["layout"] == layout
    assert layout in corpus.manifest.provenance["notes"][0]
    assert corpus.name == name
    assert corpus.labels == LABELS[name]
    counts = dict(sorted((MELD if name == "meld" else IEMOCAP).items()))
    assert corpus.dialogue_ids == [str(d) for d in counts]
    assert np.diff(corpus.offsets).tolist() == list(counts.values())
    rows = [(d, i) for d, n in counts.items() for i in range(n)]
    assert corpus.targets.tolist() == [fields["labels"][d][i] for d, i in rows]
    assert corpus.utterances["text"].tolist() == [fields["sentences"][d][i] for d, i in rows]
    spoken = [("MF"[i % 2] if name == "iemocap" else f"speaker_{i % 9}") for _, i in rows]
    assert corpus.utterances["speaker"].tolist() == spoken
    modalities = {"text" if m == "text_1" else m: m for m in WIDTHS if m in fields}
    assert set(corpus.modalities) == set(modalities)
    for modality, field in modalities.items():
        values, present = corpus.features(modality)
        expected = np.array([fields[field][d][i] for d, i in rows], dtype=np.float32)
        assert np.array_equal(values.numpy(), expected)
        assert present.all()


def test_an_import_passes_the_check(tmp_path):
    corpus = import_pickle([save(tmp_path / "x.pkl", make("meld-sdt"))], tmp_path / "out")
    faults = [str(p) for p in check(corpus) if "class" not in str(p) and "label" not in str(p)]
    assert not faults


@pytest.mark.parametrize("chosen", ["text_1", "text_2", "text_3", "text_4"])
def test_any_text_layer_can_be_the_modality_text(imported, chosen):
    fields = make("meld-sdt")
    corpus = imported(fields, text=chosen)
    others = {"text_1", "text_2", "text_3", "text_4"} - {chosen}
    assert set(corpus.modalities) == {"text", "audio", "visual", *others}
    assert np.allclose(corpus.features("text")[0][0], fields[chosen][0][0])
    assert corpus.modalities["text"].recipe["field"] == chosen


def test_a_text_layer_that_is_not_there(imported):
    assert "text_2" in rejected(imported, make("meld-mmgcn"), text="text_2")


def split_of(corpus):
    return dict(zip(corpus.utterances["dialogue_id"], corpus.utterances["split"], strict=True))


def test_the_official_split_of_meld_is_restored(imported):
    splits = split_of(imported(make("meld-mmgcn")))
    assert {s: [int(d) for d in splits if splits[d] == s] for s in splits.values()} == {
        "train": [0, 2, 10, 1038],
        "validation": [1039, 1152],
        "test": [1153, 1432],
    }


@pytest.mark.parametrize(
    ("train", "test", "dialogue"),
    [({0, 2, 1153}, {1432}, "1153"), ({0, 2}, {1152, 1432}, "1152"), ({0, 2}, {2, 1432}, "2")],
)
def test_splits_that_contradict_meld_are_refused(imported, train, test, dialogue):
    message = rejected(imported, make("meld-mmgcn") | {"train": train, "test": test})
    assert f"dialogue {dialogue} is a" in message


@pytest.mark.parametrize("collection", [set, list, tuple, frozenset, lambda ids: np.array(sorted(ids))])
def test_validation_dialogues_of_iemocap_follow_the_rule(imported, collection):
    fields = make("iemocap-mmgcn")
    train = fields["train"]
    fields |= {"train": collection(train), "test": collection(fields["test"])}
    splits = split_of(imported(fields))
    assert [d for d in splits if splits[d] == "validation"] == draw_validation(sorted(train), 1)
    assert {d for d in splits if splits[d] != "test"} == set(train)


def test_twelve_of_120_dialogues_of_iemocap_validate(imported):
    fields = make("iemocap-mmgcn")
    names = [f"Ses0{s}M_script{i:02}" for s in (1, 2, 3, 4) for i in range(30)] + ["Ses05F_impro01"]
    grown = {
        field: dict.fromkeys(names, table["Ses01F_impro01"]) if isinstance(table, dict) else table
        for field, table in fields.items()
    }
    splits = split_of(imported(grown | {"train": names[:120], "test": names[120:]}))
    found = [d for d in splits if splits[d] == "validation"]
    assert found == [names[i] for i in range(5, 120, 10)]


def test_validation_dialogues_of_the_file_are_used(imported):
    splits = split_of(imported(make("iemocap-cosmic")))
    assert [d for d in splits if splits[d] == "validation"] == ["Ses01F_impro01"]


def test_dialogues_of_no_split_and_without_utterances_are_left_out_and_named(imported):
    fields = make("iemocap-mmgcn")
    fields["test"] = fields["test"] - {"Ses05F_impro01"}
    for table in (t for t in fields.values() if isinstance(t, dict)):
        table["Ses05F_impro02"] = []
    corpus = imported(fields)
    assert corpus.manifest.provenance["dialogues_left_out"] == {
        "empty": ["Ses05F_impro02"],
        "in_no_split": ["Ses05F_impro01"],
    }
    assert not {"Ses05F_impro01", "Ses05F_impro02"} & set(corpus.dialogue_ids)


def test_speakers_as_letters_numbers_or_bytes(imported):
    fields = make("meld-cosmic", letters=True)
    fields["speakers"][0] = [b"M", "F ", np.str_("M")]
    fields["speakers"][2] = np.zeros((1, 9))
    fields["speakers"][10] = np.array([3, 0, 3, 1])
    speakers = imported(fields).utterances["speaker"]
    assert speakers[:3].tolist() == ["M", "F", "M"]
    assert pd.isna(speakers[3])
    assert speakers[4:8].tolist() == ["speaker_3", "speaker_0", "speaker_3", "speaker_1"]


def test_wrong_encodings_of_sentences_are_repaired(imported):
    fields = make("meld-mmgcn")
    fields["sentences"][0] = [" It\x92s\n", "It’s caf\u00e9".encode().decode("latin-1"), "caf\u00e9 \ud800"]
    fields["sentences"][10] = ["It’s".encode(), b"It\x92s", "日本", "café"]
    texts = imported(fields).utterances["text"]
    assert texts[:3].tolist() == ["It’s", "It’s café", "café ?"]
    assert texts[4:8].tolist() == ["It’s", "It’s", "日本", "café"]


def test_utterance_ids_of_iemocap_name_the_clips(tmp_path, imported):
    assert imported(make("iemocap-sdt")).utterances["media"][0] == "Ses01F_impro01_F000"
    assert imported(make("meld-sdt")).utterances["media"].isna().all()


def test_zero_vectors_stay_and_are_counted_and_nan_vectors_are_absent(imported):
    fields = make("meld-mmgcn")
    fields["visual"][0][1] = np.zeros(3)
    fields["visual"][10][0] = [0, 0, 0]
    fields["audio"][2][0] = np.full(5, np.nan)
    corpus = imported(fields)
    assert corpus.manifest.provenance["all_zero_rows"] == {"text": 0, "audio": 0, "visual": 2}
    assert corpus.manifest.provenance["absent_rows"] == {"text": 0, "audio": 1, "visual": 0}
    assert np.flatnonzero(~corpus.features("audio")[1].numpy()).tolist() == [3]


NAN = np.array([1, np.nan, 2, 3, 4])
FAULTS = {  # field and value of dialogue 10 (four utterances) → what the message says
    "short": ("audio", [np.ones(5)] * 3, "3 utterances, but 4 labels"),
    "sentence": ("sentences", ["a"] * 5, "5 utterances"),
    "width": ("audio", [np.ones(6)] * 4, "6 numbers"),
    "widths": ("audio", [np.ones(5)] * 3 + [np.ones(4)], "4 and 5"),
    "matrix": ("audio", np.ones((4, 6)), "6 numbers"),
    "three dimensions": ("audio", np.ones((4, 5, 1)), "not a vector"),
    "nested": ("audio", [[[1.0]] * 5] * 4, "not a vector"),
    "text for numbers": ("audio", [["1"] * 5] * 4, "not a vector"),
    "none": ("audio", [None] * 4, "not a vector"),
    "no sequence": ("audio", 5, "not int"),
    "nan": ("audio", [NAN] * 4, "NaN or infinity"),
    "beyond float32": ("audio", np.full((4, 5), 1e300), "NaN or infinity"),
    "class": ("labels", [0, 1, 7, 0], "class 7"),
    "negative class": ("labels", [0, 1, -1, 0], "class -1"),
    "half a class": ("labels", [0, 1, 0.5, 0], "whole numbers"),
    "two ones": ("speakers", [[1, 1, 0]] * 4, "one-hot"),
    "no sentence": ("sentences", ["a", 1, "b", "c"], "not text"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named_with_dialogue_and_field(imported, tmp_path, case):
    field, value, problem = FAULTS[case]
    fields = make("meld-mmgcn")
    fields[field][10] = value
    message = rejected(imported, fields)
    assert "dialogue 10:" in message
    assert field in message
    assert problem in message
    assert not (tmp_path / "out").exists()


def test_a_missing_dialogue_is_named(imported):
    fields = make("iemocap-sdt")
    del fields["text_3"]["Ses01F_impro02"]
    message = rejected(imported, fields)
    assert "Ses01F_impro02: text_3: the dialogue is missing" in message


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"a": 1}, "holds dict"),
        ((), "0 fields"),
        (({}, {}, 3), "nothing, nothing, int"),
        (tuple(make("meld-sdt").values())[:-2], "11 fields: numbers, vectors, numbers, vectors"),
        (tuple(reversed(make("meld-mmgcn").values())), "10 fields"),
        (tuple(make("meld-mmgcn").values())[:-1], "dialogue ids like those of meld"),
    ],
)
def test_unknown_layouts_are_refused_with_what_was_found(tmp_path, content, found):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(CorpusError) as caught:
        import_pickle([path], tmp_path / "out")
    assert found in str(caught.value)


def test_dialogue_ids_of_two_kinds(imported):
    fields = make("meld-mmgcn")
    fields["labels"]["Ses01F_impro01"] = [0]
    assert "both numbers" in rejected(imported, fields)


def joined(tmp_path, first, second, **options):
    paths = [save(tmp_path / "a.pkl", first), save(tmp_path / "b.pkl", second)]
    return import_pickle(paths, tmp_path / "out", **options)


@pytest.mark.parametrize("name", ["iemocap", "meld"])
@pytest.mark.parametrize("swapped", [False, True])
def test_two_files_are_joined_by_dialogue(tmp_path, name, swapped):
    main, cosmic = make(f"{name}-mmgcn"), make(f"{name}-cosmic")
    corpus = joined(tmp_path, *((cosmic, main) if swapped else (main, cosmic)), text="text_2")
    assert set(corpus.modalities) == {"text", "text_1", "text_3", "text_4", "audio", "visual"}
    assert corpus.manifest.provenance["layout"] == f"{name}-mmgcn + {name}-cosmic"
    assert len(corpus.manifest.provenance["files"]) == 2
    assert corpus.manifest.provenance["differing_labels"] == 0
    first = min(main["labels"])
    assert np.allclose(corpus.features("text")[0][0], cosmic["text_2"][first][0])
    assert np.allclose(corpus.features("audio")[0][0], main["audio"][first][0])
    splits = split_of(corpus)
    assert {d for d in splits if splits[d] == "validation"} == {str(d) for d in cosmic["validation"]}


def test_two_files_of_different_lengths_name_the_dialogue(tmp_path):
    cosmic = make("meld-cosmic")
    for table in cosmic.values():
        if isinstance(table, dict):
            table[10] = table[10][:3]
    with pytest.raises(CorpusError, match=r"dialogue 10 has 4 utterances in .*a\.pkl, but 3 in .*b\.pkl"):
        joined(tmp_path, make("meld-mmgcn"), cosmic)


def test_labels_that_differ_between_two_files_are_counted(tmp_path):
    cosmic = make("meld-cosmic")
    cosmic["labels"][10] = [(label + 1) % 7 for label in cosmic["labels"][10]]
    corpus = joined(tmp_path, make("meld-mmgcn"), cosmic)
    assert corpus.manifest.provenance["differing_labels"] == 4


def test_a_dialogue_that_only_one_file_has_is_named(tmp_path):
    cosmic = make("meld-cosmic")
    cosmic["train"] = cosmic["train"] - {10}
    with pytest.raises(CorpusError, match=r"dialogue 10 is in .*a\.pkl, but in no split of .*b\.pkl"):
        joined(tmp_path, make("meld-mmgcn"), cosmic)


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ("meld-mmgcn", "iemocap-cosmic", "different corpora"),
        ("meld-mmgcn", "meld-sdt", "text only"),
        ("meld-cosmic", "meld-cosmic", "text only"),
    ],
)
def test_files_that_cannot_be_joined(tmp_path, first, second, problem):
    with pytest.raises(CorpusError, match=problem):
        joined(tmp_path, make(first), make(second))


def test_the_number_of_files(tmp_path):
    path = save(tmp_path / "x.pkl", make("meld-mmgcn"))
    for sources in ([], [path] * 3):
        with pytest.raises(CorpusError, match=f"{len(sources)} files"):
            import_pickle(sources, tmp_path / "out")


def write_transcripts(folder, fields, shift=0):
    """Write MELD's three files with the sentences of a pickle, the test dialogues `shift` numbers later."""
    starts = {"train": range(1039), "dev": range(1039, 1153), "test": range(1153, 1433)}
    for name, numbers in starts.items():
        offset = shift if name == "test" else 0
        rows = [
            {
                "Utterance": sentence,
                "Speaker": "Joey",
                "Emotion": "joy",
                "Dialogue_ID": d - numbers.start + offset,
                "Utterance_ID": 2 * i,  # with gaps, as in MELD
                "StartTime": "00:00:01,000",
                "EndTime": "00:00:02,000",
            }
            for d, sentences in fields["sentences"].items()
            if d in numbers
            for i, sentence in enumerate(sentences)
        ]
        pd.DataFrame(rows).to_csv(folder / f"{name}_sent_emo.csv", index=False)


def test_sentences_are_compared_with_the_official_transcripts(tmp_path, imported):
    fields = make("meld-mmgcn")
    write_transcripts(tmp_path, fields)
    fields["sentences"][10] = ["sentence  0 of ‘10’", *fields["sentences"][10][1:3], "Something else."]
    corpus = imported(fields, meld_csv=tmp_path)
    assert corpus.manifest.provenance["meld_csv"] == {"compared_utterances": 20, "differing_utterances": 1}


def test_other_sentences_than_the_official_ones_name_the_dialogue(tmp_path, imported):
    fields = make("meld-mmgcn")
    write_transcripts(tmp_path, fields)
    fields["sentences"][10] = ["Quite", "another", "conversation", "here"]
    assert "dialogue 10 should be dialogue 10 of train" in rejected(imported, fields, meld_csv=tmp_path)
    write_transcripts(tmp_path, make("meld-mmgcn"), shift=1)
    message = rejected(imported, make("meld-mmgcn"), meld_csv=tmp_path)
    assert "dialogue 1153 should be dialogue 0 of test" in message


def test_transcripts_of_other_lengths_name_the_dialogue(tmp_path, imported):
    fields = make("meld-mmgcn")
    fields["sentences"][1152] = fields["sentences"][1152][:2]
    write_transcripts(tmp_path, fields)
    message = rejected(imported, make("meld-mmgcn"), meld_csv=tmp_path)
    assert "dialogue 1152 should be dialogue 113 of dev" in message
    assert "3 utterances instead of 2" in message


def test_transcripts_that_are_missing_or_of_no_use(tmp_path, imported):
    assert "train_sent_emo.csv" in rejected(imported, make("meld-mmgcn"), meld_csv=tmp_path)
    assert "not a file of MELD" in rejected(imported, make("iemocap-mmgcn"), meld_csv=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_MELD.is_dir(), reason="the transcripts of MELD are not here")
def test_a_file_of_all_of_meld_agrees_with_the_transcripts(tmp_path):
    starts = {"train": 0, "dev": 1039, "test": 1153}
    tables = [pd.read_csv(REAL_MELD / f"{name}_sent_emo.csv") for name in starts]
    whole = pd.concat(
        t.assign(number=t["Dialogue_ID"] + s) for t, s in zip(tables, starts.values(), strict=True)
    )
    groups = whole.groupby("number")
    numbers = {name: LABELS["meld"].index(name) for name in LABELS["meld"]}
    vectors = {d: np.ones((len(g), 2), np.float32) for d, g in groups}
    ids = list(groups.groups)
    fields = {
        "ids": {d: g["Utterance_ID"].tolist() for d, g in groups},
        "speakers": {d: np.eye(9)[np.zeros(len(g), int)] for d, g in groups},
        "labels": {d: g["Emotion"].map(numbers).tolist() for d, g in groups},
        "text_1": vectors,
        "audio": vectors,
        "visual": vectors,
        "sentences": {d: [t.encode("cp1252", "replace") for t in g["Utterance"]] for d, g in groups},
        "train": {d for d in ids if d < 1153},
        "test": {d for d in ids if d >= 1153},
        "unused": None,
    }
    path = save(tmp_path / "x.pkl", fields)
    corpus = import_pickle([path], tmp_path / "out", meld_csv=REAL_MELD)
    counts = corpus.utterances["split"].value_counts()
    assert counts.to_dict() == {"train": 9989, "validation": 1109, "test": 2610}
    assert corpus.manifest.provenance["meld_csv"]["differing_utterances"] == 0
