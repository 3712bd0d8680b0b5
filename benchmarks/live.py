"""How fast a live conversation answers, by the number of its turns, on one core.

    OMP_NUM_THREADS=1 python benchmarks/live.py CHECKPOINT [--turns 200] [--rounds 5]

The turns are sentences of 2 to 30 words, two speakers in turn. `text` is the median of the part that reads
the new turn, `network` of the rest: the run over all turns so far. Memory is what the process grew by in the
first conversation, which warms up the libraries, and in each of the others.
"""

import argparse
import os
import random
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from mmerc.conversation import Utterance
from mmerc.live import LiveConversation
from mmerc.recognizer import load

SAID = (
    "well I never said that you should leave before the others come back from there so what do we do now "
    "please tell me it is not true oh my god this is great thank you very much no way listen to me"
)


def turns(count: int, seed: int) -> list[Utterance]:
    """Return random turns, as long as those of people: most are short."""
    draw = random.Random(seed)
    lengths = [min(30, 2 + int(draw.expovariate(1 / 8))) for _ in range(count)]
    said = [" ".join(draw.choices(SAID.split(), k=n)) for n in lengths]
    return [Utterance(text, ("Ann", "Ben")[i % 2]) for i, text in enumerate(said)]


def measure(checkpoint: str, count: int, rounds: int) -> None:
    """Print the percentiles for stretches of the conversation."""
    recognizer = load(checkpoint, "cpu")
    took = np.zeros((rounds, count))
    read = np.zeros((rounds, count))
    LiveConversation(recognizer).append(Utterance("warm up"))
    lives, memory = [], [resident()]
    for number in range(rounds):
        lives.append(live := LiveConversation(recognizer, longest=count))
        for turn, utterance in enumerate(turns(count, number)):
            start = time.perf_counter()
            if live._text is not None:
                live._text.plus(utterance.text)
            middle = time.perf_counter()
            live.append(utterance)
            read[number, turn] = middle - start
            took[number, turn] = time.perf_counter() - middle
        memory.append(resident())
    ahead = "looks ahead" if live.looks_ahead else "causal"
    print(f"{checkpoint}: {ahead}, {torch.get_num_threads()} thread(s), {rounds} conversations")
    print(f"{'turns':>10} {'p50':>7} {'p95':>7} {'p99':>7} {'text':>7} {'network':>8}   ms")
    edges = [edge for edge in (0, 10, 50, 100, 150) if edge < count] + [count]
    for first, last in [*pairwise(edges), (0, count)]:
        part, text = 1000 * took[:, first:last], 1000 * np.median(read[:, first:last])
        p50, p95, p99 = np.percentile(part, (50, 95, 99))
        name = f"{first + 1}-{last}"
        print(f"{name:>10} {p50:7.1f} {p95:7.1f} {p99:7.1f} {text:7.1f} {p50 - text:8.1f}")
    first, *others = np.diff(memory) / 2**20
    print(f"memory: {first:.0f} MiB for the first conversation, {np.mean(others):.1f} for another")


def resident() -> int:
    """Return the resident memory of this process in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="+", help="a checkpoint folder or a shipped model")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5, help="conversations, at least 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for checkpoint in options.checkpoint:
        measure(checkpoint, options.turns, options.rounds)


if __name__ == "__main__":
    main()
