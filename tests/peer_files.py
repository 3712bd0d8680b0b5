"""Small random feature pickles of the field's seven layouts."""

import pickle

import numpy as np

from mmerc.corpora.peer_layouts import LABELS

WIDTHS = {"text_1": 7, "text_2": 7, "text_3": 7, "text_4": 7, "audio": 5, "visual": 3}
TEXTS = "text_1 text_2 text_3 text_4"
LAYOUTS = {
    "iemocap-mmgcn": "ids speakers labels text_1 audio visual sentences train test",
    "meld-mmgcn": "ids speakers labels text_1 audio visual sentences train test unused",
    "iemocap-sdt": f"ids speakers labels {TEXTS} audio visual sentences train test",
    "meld-sdt": f"ids speakers labels {TEXTS} audio visual sentences train test unused",
    "meld-cfn-esa": f"ids speakers labels sentiments {TEXTS} audio visual sentences train test unused",
    "iemocap-cosmic": f"speakers labels {TEXTS} sentences train test validation",
    "meld-cosmic": f"speakers labels sentiments {TEXTS} sentences train test validation",
}
MELD = {0: 3, 2: 1, 10: 4, 1038: 2, 1039: 2, 1152: 3, 1153: 1, 1432: 4}  # dialogue → utterances
IEMOCAP = {f"Ses0{s}{g}_impro0{i}": 2 + i for s in (1, 2, 5) for g in "FM" for i in (1, 2, 3)}
SPLITS = {
    "meld": {"train": {0, 2, 10, 1038, 1039, 1152}, "test": {1153, 1432}, "validation": set()},
    "iemocap": {
        "train": [d for d in IEMOCAP if d < "Ses05"],
        "test": [d for d in IEMOCAP if d > "Ses05"],
        "validation": [],
    },
}


def make(layout, *, as_arrays=False, letters=False):
    """Return the fields of a random pickle, by name, in the order of the layout."""
    corpus = layout.partition("-")[0]
    counts = MELD if corpus == "meld" else IEMOCAP
    rng = np.random.default_rng(len(layout))
    shape = np.array if as_arrays else list
    letters = letters or corpus == "iemocap"

    def per_dialogue(draw):
        return {d: shape(draw(d, n)) for d, n in counts.items()}

    fields = {
        "ids": per_dialogue(lambda d, n: [f"{d}_F{i:03}" if letters else i for i in range(n)]),
        "speakers": per_dialogue(
            lambda d, n: ["MF"[i % 2] if letters else list(np.eye(9, dtype=int)[i % 9]) for i in range(n)]
        ),
        "labels": per_dialogue(lambda d, n: [(i + len(str(d))) % len(LABELS[corpus]) for i in range(n)]),
        "sentiments": per_dialogue(lambda d, n: [i % 3 for i in range(n)]),
        "sentences": per_dialogue(lambda d, n: [f"Sentence {i} of {d}." for i in range(n)]),
        "unused": {"joy": 1},
        **{m: per_dialogue(lambda d, n, w=w: list(rng.normal(size=(n, w)))) for m, w in WIDTHS.items()},
        **{name: set(ids) for name, ids in SPLITS[corpus].items()},
    }
    if layout.endswith("cosmic"):
        held_out = {1039, 1152} if corpus == "meld" else {"Ses01F_impro01"}
        fields["train"], fields["validation"] = fields["train"] - held_out, held_out
    return {name: fields[name] for name in LAYOUTS[layout].split()}


def save(path, fields, protocol=2):
    content = pickle.dumps(tuple(fields.values()), protocol)
    path.write_bytes(content.replace(b"numpy._core", b"numpy.core") if protocol < 4 else content)
    return path
