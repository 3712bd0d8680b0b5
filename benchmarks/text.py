"""How fast and in how much memory texts are read, on generated dialogues with the lengths of MELD's.

    python benchmarks/text.py speed [--batches 12]
    python benchmarks/text.py memory [--encoder roberta-large]

`speed`: tokens a second, padding not counted, of the encoder `minilm` on one thread: its model alone on
ready batches of equally long windows (*bare*), windows padded to the longest of a batch, and as mmerc packs
them; then of a whole training epoch, and of frozen features. Times are those of the processor, so that
other work on the machine disturbs little.

`memory`: peak resident memory of a training step (AdamW, float32) with and without gradient checkpointing, at
the batch sizes of the DF-ERC paper. `roberta-large` has that model's shape and random weights.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmerc.batch import length_buckets
from mmerc.corpus import write_corpus
from mmerc.features import pretrained
from mmerc.features.frozen import encode
from mmerc.features.packing import Window
from mmerc.features.text import Scope, TextEncoder, TextRecipe
from mmerc.models import resolve
from mmerc.task import Task
from mmerc.training import Listener, Trainer
from shapes import SHAPES

SCOPES: tuple[Scope, ...] = ("dialogue", "utterance")
# Dialogues × utterances of a batch in the paper: MELD's with the longest dialogues of a length bucket
# (1 to 24 utterances), IEMOCAP's with average ones.
BATCHES = {"meld": (8, 18), "iemocap": (4, 48)}

Texts = list[list[str]]
Ids = list[list[list[int]]]


def draw_texts(encoder: TextEncoder, lengths: Sequence[int], rng: np.random.Generator) -> Texts:
    """Draw dialogues of so many utterances: 11.8 words of a token each, 3/4 of them up to 17, as in MELD."""
    known = encoder._tokenizer.get_vocab()
    words = np.array(sorted(word for word in known if word.isalpha() and word.isascii()))

    def utterance() -> str:
        return " ".join(rng.choice(words, max(1, round(rng.gamma(1.9, 11.84 / 1.9)))))

    return [[utterance() for _ in range(n)] for n in lengths]


def token_ids(encoder: TextEncoder, texts: Texts) -> Ids:
    """Return the token ids of dialogues × utterances."""
    return [encoder.tokenize(utterances) for utterances in texts]


def stepper(encoder: TextEncoder, training: bool) -> Callable[[Callable[[], Tensor]], float]:
    """Return what times a forward pass, in training with all that makes it a step."""
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-6, fused=True)

    def step(forward: Callable[[], Tensor]) -> float:
        start = time.process_time()
        encoder.train(training)
        with torch.set_grad_enabled(training):
            states = forward()
            if training:
                states.square().mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start

    return step


def speeds(scope: Scope, training: bool, batches: int) -> dict[str, float]:
    """Return tokens a second: of the bare model, of windows padded to the longest, and packed."""
    encoder, rng = TextEncoder.load("minilm", scope=scope), np.random.default_rng(0)
    step, seconds, total = stepper(encoder, training), dict.fromkeys(("bare", "padded", "packed"), 0.0), 0
    lengths = SHAPES["meld"].draw(rng, 8 * (batches + 1))
    for positions in length_buckets(lengths, 8, rng):
        ids = token_ids(encoder, draw_texts(encoder, lengths[positions].tolist(), rng))
        windows, count = encoder.all_windows(ids), sum(map(len, ids))
        tokens = sum(map(encoder.length, windows))
        length = round(tokens / len(windows))
        even = torch.randint(1000, 20000, (round(tokens / length), length))
        ones = torch.ones_like(even)
        taken = {
            "bare": step(partial(bare, encoder, even, ones)),
            "padded": step(partial(padded, encoder, windows, count)),
            "packed": step(partial(packed, encoder, ids, count)),
        }
        if not total:  # the first batch warms up
            total = 1
            continue
        total += tokens
        seconds = {name: seconds[name] + taken[name] for name in seconds}
    return {name: (total - 1) / spent for name, spent in seconds.items()}


def bare(encoder: TextEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    """Run the model alone."""
    states: Tensor = encoder.model(input_ids=ids, attention_mask=mask)[0]
    return states


def padded(encoder: TextEncoder, windows: Sequence[Window], count: int) -> Tensor:
    """Lay all windows out in one block, and encode it."""
    vectors: Tensor = encoder([encoder.collate(windows)], count)
    return vectors


def packed(encoder: TextEncoder, ids: Sequence[Sequence[list[int]]], count: int) -> Tensor:
    """Pack the texts as mmerc does, and encode them."""
    vectors: Tensor = encoder(encoder.pack(ids), count)
    return vectors


def epoch_speed(scope: Scope, batches: int) -> float:
    """Return tokens a second of an epoch of `mmerc train` with the text of generated dialogues."""
    rng, encoder = np.random.default_rng(1), TextEncoder.load("minilm", scope=scope)
    shape, size = SHAPES["meld"], 8 * batches
    lengths = shape.draw(rng, size + 8)
    texts = draw_texts(encoder, lengths.tolist(), rng)
    table = pd.DataFrame(
        {
            "dialogue_id": np.repeat([f"d{i}" for i in range(len(lengths))], lengths),
            "utterance_index": np.concatenate([np.arange(n) for n in lengths]),
            "speaker": rng.choice([*"ABC"], int(lengths.sum())),
            "text": [text for utterances in texts for text in utterances],
            "label": rng.choice(shape.labels, int(lengths.sum())),
            "split": np.repeat(["train"] * size + ["validation"] * 8, lengths),
        }
    )
    run = resolve("df-erc", {"modalities": ["text"], "text_encoder": {"name": "minilm", "scope": scope}})
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(
            Path(folder) / "corpus",
            name="texts",
            labels=shape.labels,
            utterances=table,
            features={},
            provenance={},
        )
        task = Task(corpus, run, corpus.split("train"), corpus.split("validation"), seed=0)
        trainer = Trainer(task, torch.device("cpu"))
        start = time.process_time()
        trainer.train_epoch(1, np.random.default_rng(0), Listener())
        spent = time.process_time() - start
    return sum(map(encoder.length, encoder.all_windows(token_ids(encoder, texts[:size])))) / spent


def frozen_speed(scope: Scope, dialogues: int) -> tuple[float, float]:
    """Return tokens a second of `encode`, from text to vectors, and of the bare model on as many tokens."""
    encoder, rng = TextEncoder.load("minilm", scope=scope), np.random.default_rng(2)
    texts = draw_texts(encoder, SHAPES["meld"].draw(rng, dialogues).tolist(), rng)
    windows = encoder.all_windows(token_ids(encoder, texts))
    tokens = sum(map(encoder.length, windows))
    length = round(tokens / len(windows))
    even = torch.randint(1000, 20000, (max(1, 2048 // length), length))
    ones = torch.ones_like(even)
    rounds = max(1, round(tokens / even.numel()))
    encode(encoder, texts[:4])
    start = time.process_time()
    encode(encoder, texts)
    middle = time.process_time()
    with torch.inference_mode():
        for _ in range(rounds):
            encoder.model(input_ids=even, attention_mask=ones)
    return tokens / (middle - start), rounds * even.numel() / (time.process_time() - middle)


def measure_speed(batches: int) -> None:
    """Print the table of speeds."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, minilm, {batches} batches of 8 dialogues")
    print("| scope | work | bare | padded to the longest | packed |")
    print("|---|---|---|---|---|")
    for scope in SCOPES:
        for training in (False, True):
            found = speeds(scope, training, batches)
            bare, *rest = found.values()
            name = "training step" if training else "forward"
            cells = " | ".join(f"{x:,.0f} ({x / bare:.0%})" for x in rest)
            print(f"| {scope} | {name} | {bare:,.0f} | {cells} |", flush=True)
        whole = epoch_speed(scope, batches)
        print(
            f"| {scope} | epoch of `mmerc train df-erc` | {bare:,.0f} | | {whole:,.0f} ({whole / bare:.0%}) |"
        )
        for size in (8 * batches, 32 * batches):
            ours, bare = frozen_speed(scope, size)
            cells = f"{bare:,.0f} | | {ours:,.0f} ({ours / bare:.0%})"
            print(f"| {scope} | frozen features of {size} dialogues | {cells} |", flush=True)


def random_roberta(checkpointing: bool) -> TextEncoder:
    """Return an encoder of RoBERTa-large's shape with random weights and, having none, MiniLM's tokenizer."""
    from transformers import RobertaConfig, RobertaModel

    config: Any = RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
        use_cache=False,
    )
    tokenizer = TextEncoder.load("minilm")._tokenizer
    model = RobertaModel(config, add_pooling_layer=False)
    recipe = TextRecipe(encoder="random", sha256="", window=512, utterance_limit=256)
    return TextEncoder(pretrained.Parts(model, tokenizer, config), recipe, checkpointing)


def measure_step(name: str, batch: str, checkpointing: bool) -> None:
    """Print one row of the table of memory; the process is to do nothing else."""
    if name == "roberta-large":
        encoder = random_roberta(checkpointing)
    else:
        encoder = TextEncoder.load(name, gradient_checkpointing=checkpointing)
    rng, (dialogues, utterances) = np.random.default_rng(0), BATCHES[batch]
    ids = token_ids(encoder, draw_texts(encoder, [utterances] * dialogues, rng))
    step = stepper(encoder, training=True)
    step(lambda: encoder(encoder.pack([[[2000]]]), 1))  # the optimizer's state comes to be
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = step(lambda: encoder(encoder.pack(ids), dialogues * utterances))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    tokens = sum(map(encoder.length, encoder.all_windows(ids)))
    print(
        f"| {name} | {batch}: {dialogues} × {utterances} | {tokens:,} | {'yes' if checkpointing else 'no'} "
        f"| {before:.2f} | {peak:.2f} | {seconds:.0f} |",
        flush=True,
    )


def measure_memory(name: str) -> None:
    """Print the table of memory: every row is a process of its own, whose peak it is."""
    print(
        "| encoder | batch: dialogues × utterances | tokens | gradient checkpointing | "
        "weights, gradients, AdamW (GiB) | peak (GiB) | seconds a step |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for batch in BATCHES:
        for flag in ("no", "yes"):
            subprocess.run([sys.executable, __file__, "step", name, batch, flag], check=True)


def main() -> None:
    """Run one of the benchmarks and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--batches", type=int, default=12)
    memory = commands.add_parser("memory")
    memory.add_argument("--encoder", default="roberta-large", help="or one that TextEncoder.load takes")
    step = commands.add_parser("step")  # one row of `memory`
    step.add_argument("encoder")
    step.add_argument("batch", choices=BATCHES)
    step.add_argument("checkpointing", choices=["no", "yes"])
    arguments = parser.parse_args()
    if arguments.command == "speed":
        measure_speed(arguments.batches)
    elif arguments.command == "memory":
        measure_memory(arguments.encoder)
    else:
        torch.set_num_threads(1)
        measure_step(arguments.encoder, arguments.batch, arguments.checkpointing == "yes")


if __name__ == "__main__":
    main()
