"""What the routes share: `request.app.state.service`."""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar

from mmerc.conversation import Conversation, Prediction
from mmerc.explanation import Explanation
from mmerc.recognizer import Recognizer
from mmerc.service.batching import Batcher
from mmerc.service.failures import Failure
from mmerc.service.observing import Metrics
from mmerc.service.settings import Settings
from mmerc.service.uploads import Uploads

Result = TypeVar("Result")


class Service:
    """The models, the settings, and the ways to use them from many requests at the same time.

    Attributes:
        recognizers: name → model; the first is the default
        settings: limits and times
        metrics: what Prometheus is told
        uploads: where recordings are kept while they are measured
        stopping: nothing new is accepted
    """

    def __init__(self, recognizers: Mapping[str, Recognizer], settings: Settings) -> None:
        self.recognizers = dict(recognizers)
        self.settings = settings
        self.metrics = Metrics()
        self.uploads = Uploads(settings, self.metrics)
        self.stopping = False
        self._batcher = Batcher(self.recognizers, settings, self.metrics)

    def named(self, name: str | None) -> tuple[str, Recognizer]:
        """Return the model of that name, or the first.

        Raises:
            Failure: there is none (404).
        """
        name = name or next(iter(self.recognizers))
        if name not in self.recognizers:
            known = ", ".join(self.recognizers)
            raise Failure(
                HTTPStatus.NOT_FOUND, "no_such_model", f"there is no such model; there are: {known}", "model"
            )
        return name, self.recognizers[name]

    async def predict(self, name: str | None, conversations: Sequence[Conversation]) -> list[Prediction]:
        """Predict with a model, together with what other requests have it predict.

        Raises:
            Failure: no such model (404), too much is waiting (429), it takes too long (504).
            ConversationError, FeatureError: as `Recognizer.predict_many`.
        """
        name, _ = self.named(name)
        predictions = await self._batcher.predict(name, conversations)
        self.metrics.utterances.labels(name).inc(sum(map(len, conversations)))
        return predictions

    async def explain(self, name: str | None, conversation: Conversation) -> Explanation:
        """Predict, and say which turns mattered.

        Raises:
            Failure, ConversationError, FeatureError: as `predict`.
        """
        name, recognizer = self.named(name)
        explanation = await self.call(lambda: recognizer.explain(conversation), len(conversation) ** 2)
        self.metrics.utterances.labels(name).inc(len(conversation))
        return explanation

    async def call(self, work: Callable[[], Result], utterances: int = 1) -> Result:
        """Do any other work with a model in the one thread that computes, in its turn.

        Args:
            work: what is to be done
            utterances: how much that is

        Raises:
            Failure: too much is waiting (429), it takes too long (504); and what the work raises.
        """
        return await self._batcher.call(work, utterances)

    async def finish(self) -> None:
        """Finish what was accepted, and leave nothing behind."""
        self.stopping = True
        await self._batcher.finish()
        self.uploads.close()
