"""How the service stands many clients: latency, errors, memory, and what it adds to the bare call.

    python benchmarks/service_load.py [--seconds 60] [--clients 50] [--model NAME_OR_FOLDER]

The service runs in a process of its own, the clients in this one. First the bare model and the service, by
one client, are called in short loops, in turn, with the same conversations: the median of the differences is
what the service adds. Then all clients call at once. `--kill` kills the service (SIGKILL) in the middle and
starts it again: what was answered was answered, and clients lose only what they were waiting for.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import mmerc
from mmerc.conversation import Conversation, Utterance

WORDS = (
    *("well", "no", "yes", "but", "I", "you", "never", "really", "think", "it", "is", "so", "great"),
    *("sad", "the", "train", "late", "again", "why", "thanks", "wait"),
)
LONGEST = 10  # utterances
LOOP = 25  # calls in a row
HEAD = (
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


@dataclass
class Answers:
    """What the clients got."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """Return percentiles, and how often which status came."""
        cuts = statistics.quantiles(self.seconds, n=100)
        p50, p95, p99 = (1000 * cuts[k - 1] for k in (50, 95, 99))
        return f"p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms; {dict(self.statuses)}"


def conversations(count: int, seed: int = 0) -> list[Conversation]:
    """Make up conversations of 1 to `LONGEST` utterances of 3 to 15 words."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        turns = [
            Utterance(" ".join(chance.choices(WORDS, k=chance.randint(3, 15))), "AB"[i % 2])
            for i in range(chance.randint(1, LONGEST))
        ]
        made.append(Conversation(tuple(turns)))
    return made


def body(conversation: Conversation) -> bytes:
    """Return the request."""
    turns = [{"text": u.text, "speaker": u.speaker} for u in conversation]
    return json.dumps({"utterances": turns}).encode()


class Server:
    """The service in a process of its own."""

    def __init__(self, model: str, options: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [
            str(Path(sys.executable).with_name("mmerc")),
            "serve",
            "--model",
            model,
            "--port",
            str(self.port),
        ]
        self.command += [word for option in options for word in ("--set", option)]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        started = time.perf_counter()
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        while True:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        print(f"ready after {time.perf_counter() - started:.1f} s")

    def restart(self) -> None:
        """Kill it and start it again."""
        self.process.kill()
        self.process.wait()
        self.start()

    def memory_mb(self) -> float:
        """Return what it keeps in memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


async def client(url: str, bodies: Sequence[bytes], until: float, answers: Answers) -> None:
    """Send one request after the other."""
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(timeout=60) as http:
        for content in itertools.cycle(bodies):
            if time.monotonic() > until:
                return
            started = time.perf_counter()
            try:
                answer = await http.post(f"{url}/v1/predict", content=content, headers=headers)
            except httpx.TransportError as error:
                answers.statuses[type(error).__name__] += 1
                await asyncio.sleep(0.2)
                continue
            answers.statuses[str(answer.status_code)] += 1
            if answer.status_code == 200:
                answers.seconds.append(time.perf_counter() - started)
            elif answer.status_code == 429:
                await asyncio.sleep(int(answer.headers["retry-after"]))


async def crowd(server: Server, bodies: Sequence[bytes], arguments: argparse.Namespace) -> Answers:
    """Let all clients call at once."""
    answers = Answers()
    until = time.monotonic() + arguments.seconds
    shares = [random.Random(k).sample(bodies, len(bodies)) for k in range(arguments.clients)]
    working = asyncio.gather(*(client(server.url, share, until, answers) for share in shares))
    memory: list[float] = []
    while not working.done():
        await asyncio.sleep(min(arguments.seconds / 12, 10))
        memory.append(server.memory_mb())
        if arguments.kill and len(memory) == 6:
            await asyncio.to_thread(server.restart)
    await working
    print("memory (MB):", " ".join(f"{m:.0f}" for m in memory))
    return answers


async def compare(server: Server, model: str, spoken: Sequence[Conversation]) -> tuple[Answers, Answers]:
    """Call the bare model and the service in loops of `LOOP` calls, in turn, with the same conversations."""
    recognizer = mmerc.load(model)
    bare, served = Answers(), Answers()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async def ask(content: bytes) -> None:
        writer.write(HEAD % len(content) + content)
        received = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(int(re.findall(r"(?i)content-length: (\d+)", received)[0]))
        served.statuses[received.split()[1]] += 1

    for start in range(0, len(spoken), LOOP):
        part = spoken[start : start + LOOP]
        recognizer.predict(part[0])
        for conversation in part:
            started = time.perf_counter()
            recognizer.predict(conversation)
            bare.seconds.append(time.perf_counter() - started)
        await ask(body(part[0]))
        for content in map(body, part):
            started = time.perf_counter()
            await ask(content)
            served.seconds.append(time.perf_counter() - started)
    writer.close()
    return bare, served


def parsed() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--model", default="meld-text")
    parser.add_argument("--set", action="append", default=[], help="as of `mmerc serve`")
    parser.add_argument("--kill", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parsed()
    spoken = conversations(300)
    bodies = [body(conversation) for conversation in spoken]
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}, {os.cpu_count()} cores")
    server = Server(arguments.model, arguments.set)
    try:
        before = server.memory_mb()
        bare, served = asyncio.run(compare(server, arguments.model, spoken))
        added = statistics.median(s - b for s, b in zip(served.seconds, bare.seconds, strict=True))
        print(f"bare call: {bare.summary()}\none client: {served.summary()}")
        print(f"the service adds {1000 * added:.2f} ms at p50")
        print(f"{arguments.clients} clients, {arguments.seconds:g} s; memory before: {before:.0f} MB")
        answers = asyncio.run(crowd(server, bodies, arguments))
        print(answers.summary())
        print(f"{len(answers.seconds) / arguments.seconds:.0f} answers per second")
    finally:
        print(f"stopped with {server.stop()}")


if __name__ == "__main__":
    main()
