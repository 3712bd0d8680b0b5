import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mmerc.conversation import Conversation, Prediction, Utterance
from mmerc.errors import ConversationError
from mmerc.recognizer import Recognizer
from mmerc.service.batching import Batcher
from mmerc.service.failures import Failure
from mmerc.service.observing import Metrics
from mmerc.service.settings import Settings


def talk(*texts: str) -> Conversation:
    return Conversation(tuple(Utterance(text) for text in texts))


class Slow:
    """A model that computes when it is let, and remembers what was computed together."""

    def __init__(self, reader: Recognizer) -> None:
        self.reader = reader
        self.batches: list[list[int]] = []
        self.go = threading.Event()

    def predict_many(self, conversations: list[Conversation]) -> list[Prediction]:
        assert self.go.wait(20)
        self.batches.append([len(c) for c in conversations])
        return self.reader.predict_many(conversations)


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def batching(*models: Any, **settings: Any) -> Iterator[tuple[Batcher, Run]]:
    """Yield a batcher of models "0", "1", …, and a way to run what uses it; in the end nothing is waiting."""
    named = {str(k): model for k, model in enumerate(models)}
    with asyncio.Runner() as runner:
        made = Batcher(named, Settings(**settings), Metrics())
        yield made, runner.run
        runner.run(made.finish())


async def gathered(slow: Slow, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Start the calls, one after the other, and then let the model compute."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.ensure_future(call))
        await asyncio.sleep(0.005)
    slow.go.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_waits_is_computed_together(reader: Recognizer) -> None:
    slow = Slow(reader)
    talks = [talk(*["late again"] * k) for k in (1, 2, 3, 4)]
    with batching(slow) as (it, run):
        results = run(gathered(slow, *(it.predict("0", [t]) for t in talks)))
    assert slow.batches == [[1], [2, 3, 4]]  # the first found the model free
    for spoken, (prediction,) in zip(talks, results, strict=True):
        expected = reader.predict(spoken)
        assert prediction.conversation == spoken
        for one, other in zip(prediction.emotions, expected.emotions, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_batches_are_bounded_and_of_one_model(reader: Recognizer) -> None:
    one, other = Slow(reader), Slow(reader)
    other.go.set()
    with batching(one, other, batch_utterances=5) as (it, run):
        calls = [("0", 1), ("0", 3), ("1", 1), ("0", 3), ("0", 2), ("1", 1), ("0", 9)]
        run(gathered(one, *(it.predict(m, [talk(*["late"] * k)]) for m, k in calls)))
    assert one.batches == [[1], [3, 2], [3], [9]]
    assert other.batches == [[1, 1]]


def test_a_bad_conversation_fails_alone(reader: Recognizer) -> None:
    slow = Slow(reader)
    with batching(slow) as (it, run):
        talks = (talk("late"), talk("oh no"), talk(" "), talk("again"))
        first, second, bad, last = run(gathered(slow, *(it.predict("0", [t]) for t in talks)))
    assert isinstance(bad, ConversationError)
    for found, spoken in ((first, talks[0]), (second, talks[1]), (last, talks[3])):
        assert found[0].emotions[0].label == reader.predict(spoken).emotions[0].label


def test_a_full_queue(reader: Recognizer) -> None:
    slow = Slow(reader)
    with batching(slow, queue=2) as (it, run):
        results = run(gathered(slow, *(it.predict("0", [talk("late")]) for _ in range(5))))
    assert [isinstance(r, Failure) for r in results] == [False, False, False, True, True]
    assert results[3].status_code == 429
    assert 1 <= int(results[3].headers["Retry-After"]) <= 60


def test_who_waits_too_long_is_told_and_not_computed(reader: Recognizer) -> None:
    slow = Slow(reader)

    async def impatient(it: Batcher) -> list[Any]:
        calls = []
        for count in (1, 2):
            calls.append(asyncio.ensure_future(it.predict("0", [talk("late")] * count)))
            await asyncio.sleep(0.005)
        results = await asyncio.gather(*calls, return_exceptions=True)
        slow.go.set()
        return results

    with batching(slow, timeout_s=0.05) as (it, run):
        results = run(impatient(it))
    assert [r.status_code for r in results] == [504, 504]
    assert slow.batches == [[1]]


def test_other_work_takes_its_turn(reader: Recognizer) -> None:
    slow = Slow(reader)

    def fail() -> None:
        raise ZeroDivisionError

    with batching(slow) as (it, run):
        calls = (
            it.predict("0", [talk("a")]),
            it.call(lambda: len(slow.batches)),
            it.predict("0", [talk("b")]),
        )
        _, between, _, failed = run(gathered(slow, *calls, it.call(fail)))
    assert between == 1
    assert isinstance(failed, ZeroDivisionError)


def test_what_was_accepted_is_finished(reader: Recognizer) -> None:
    slow = Slow(reader)

    async def stop(it: Batcher) -> list[Any]:
        calls = [asyncio.ensure_future(it.predict("0", [talk("late")])) for _ in range(3)]
        await asyncio.sleep(0.01)
        threading.Timer(0.05, slow.go.set).start()
        await it.finish()
        return await asyncio.gather(*calls)

    with asyncio.Runner() as runner:
        it = Batcher({"0": slow}, Settings(), Metrics())  # type: ignore[dict-item]
        assert len(runner.run(stop(it))) == 3


def test_a_pause_to_gather(reader: Recognizer) -> None:
    slow = Slow(reader)
    slow.go.set()

    async def burst(it: Batcher) -> None:
        await asyncio.gather(*(it.predict("0", [talk("late")]) for _ in range(4)))

    with batching(slow, gather_ms=5) as (it, run):
        run(burst(it))
    assert slow.batches == [[1, 1, 1, 1]]
