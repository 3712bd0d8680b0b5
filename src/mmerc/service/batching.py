"""One thread computes, for all clients: what is waiting when it becomes free is predicted together.

A request that finds the thread free is computed at once, alone. While it computes, others gather, and are
the next batch: no request waits for company, and the more are waiting, the larger the batches.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from mmerc.conversation import Conversation, Prediction
from mmerc.optimization import return_free_memory
from mmerc.recognizer import Recognizer
from mmerc.service.failures import Failure
from mmerc.service.observing import Metrics
from mmerc.service.settings import Settings

Result = TypeVar("Result")

TIDY_S = 1.0  # between two times that memory is given back


@dataclass(frozen=True, eq=False)
class _Predicting:
    """A request: conversations to be predicted by one model, perhaps together with those of others."""

    future: "asyncio.Future[list[Prediction]]"
    model: str
    conversations: Sequence[Conversation]

    @property
    def utterances(self) -> int:
        return sum(map(len, self.conversations))


@dataclass(frozen=True, eq=False)
class _Calling(Generic[Result]):
    """A request: any other work, done by itself."""

    future: "asyncio.Future[Result]"
    work: Callable[[], Result]
    utterances: int


_Ticket = _Predicting | _Calling[Any]


class Batcher:
    """A bounded queue of requests, and the thread that computes them."""

    def __init__(self, recognizers: Mapping[str, Recognizer], settings: Settings, metrics: Metrics) -> None:
        self._recognizers = recognizers
        self._settings = settings
        self._metrics = metrics
        self._waiting: deque[_Ticket] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mmerc-model")
        self._draining: asyncio.Task[None] | None = None
        self._pace = 0.01  # seconds per utterance, lately
        self._tidied = 0.0  # when memory was last given back

    async def predict(self, model: str, conversations: Sequence[Conversation]) -> list[Prediction]:
        """Return the predictions; they are those that the model makes of these conversations alone.

        Raises:
            Failure: too much is waiting (429), or it takes too long (504).
            ConversationError, FeatureError: as `Recognizer.predict_many`.
        """
        future: asyncio.Future[list[Prediction]] = asyncio.get_running_loop().create_future()
        return await self._result(_Predicting(future, model, conversations), future)

    async def call(self, work: Callable[[], Result], utterances: int = 1) -> Result:
        """Do other work with a model, by itself and in its turn; it is about as much as so many utterances.

        Raises:
            Failure: as `predict`; and what the work raises.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        return await self._result(_Calling(future, work, utterances), future)

    async def finish(self) -> None:
        """Wait until nothing is waiting any more, and end the thread."""
        if self._draining is not None:
            await self._draining
        self._thread.shutdown()

    async def _result(self, ticket: "_Ticket", future: "asyncio.Future[Result]") -> Result:
        if len(self._waiting) >= self._settings.queue:
            seconds = math.ceil(sum(t.utterances for t in self._waiting) * self._pace)
            raise too_many(min(max(seconds, 1), 60))
        self._waiting.append(ticket)
        self._metrics.queue.set(len(self._waiting))
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await future
        except TimeoutError:
            message = f"this took longer than {self._settings.timeout_s:g} s: send less, or later"
            raise Failure(HTTPStatus.GATEWAY_TIMEOUT, "timeout", message) from None

    async def _drain(self) -> None:
        """Compute until nothing is waiting."""
        while self._waiting:
            if self._settings.gather_ms:
                await asyncio.sleep(self._settings.gather_ms / 1000)
            batch = self._take()
            self._metrics.queue.set(len(self._waiting))
            if not batch:
                continue
            started = time.perf_counter()
            await self._compute(batch)
            took, utterances = time.perf_counter() - started, sum(t.utterances for t in batch)
            if started - self._tidied > TIDY_S:
                self._tidied = started
                await self._attempt(return_free_memory)
            self._pace += 0.1 * (took / utterances - self._pace)
            self._metrics.compute.observe(took)
            self._metrics.batch_requests.observe(len(batch))
            self._metrics.batch_utterances.observe(utterances)

    def _take(self) -> list[_Ticket]:
        """Take the first request, and of the others for the same model as many as a batch holds."""
        batch: list[_Ticket] = []
        others: deque[_Ticket] = deque()
        room = self._settings.batch_utterances
        for ticket in self._waiting:
            if ticket.future.done():  # its client was told that it takes too long
                continue
            if not batch or (_together(batch[0], ticket) and ticket.utterances <= room):
                batch.append(ticket)
                room -= ticket.utterances
            else:
                others.append(ticket)
        self._waiting = others
        return batch

    async def _compute(self, batch: Sequence[_Ticket]) -> None:
        if len(batch) == 1:
            return _settle(batch[0], await self._attempt(self._work(batch)))
        outcome = await self._attempt(self._work(batch))
        if isinstance(outcome, BaseException):  # one of them cannot be predicted: find out which
            for ticket in batch:
                _settle(ticket, await self._attempt(self._work([ticket])))
            return None
        start = 0
        for ticket in batch:
            assert isinstance(ticket, _Predicting)
            end = start + len(ticket.conversations)
            _settle(ticket, outcome[start:end])
            start = end
        return None

    def _work(self, batch: Sequence[_Ticket]) -> Callable[[], Any]:
        first = batch[0]
        if isinstance(first, _Calling):
            return first.work
        together = [c for t in batch if isinstance(t, _Predicting) for c in t.conversations]
        return partial(self._recognizers[first.model].predict_many, together)

    async def _attempt(self, work: Callable[[], Any]) -> Any:
        """Do work in the thread; what it raises is returned, since it concerns a client, not the queue."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        await asyncio.wait([future])
        return future.exception() or future.result()


def too_many(seconds: int) -> Failure:
    """Return the answer to those who come while too much is waiting."""
    headers = {"Retry-After": str(seconds)}
    message = f"too many requests are waiting: try again in {seconds} s"
    return Failure(HTTPStatus.TOO_MANY_REQUESTS, "busy", message, headers=headers)


def _together(one: _Ticket, other: _Ticket) -> bool:
    return isinstance(one, _Predicting) and isinstance(other, _Predicting) and one.model == other.model


def _settle(ticket: _Ticket, outcome: Any) -> None:
    if ticket.future.done():  # given up while it was computed
        return
    if isinstance(outcome, BaseException):
        ticket.future.set_exception(outcome)
    else:
        ticket.future.set_result(outcome)
