"""What is sent and answered, as OpenAPI describes it."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from mmerc.conversation import Conversation, Utterance
from mmerc.service.failures import Failure
from mmerc.service.settings import Settings

LONGEST_MS = 10**9  # eleven days; what is later is not milliseconds
Time = Annotated[int, Field(ge=0, le=LONGEST_MS)]
Name = Annotated[str, Field(max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]

_CHAT: JsonDict = {
    "id": "chat",
    "utterances": [
        {"speaker": "Ann", "text": "Did you hear? I got the job!"},
        {"speaker": "Ben", "text": "No way! Congratulations!"},
    ],
}
_FAILED: JsonDict = {"error": {"code": "invalid", "message": "Field required", "where": "utterances.0.text"}}


class Received(BaseModel):
    """What clients send: unknown fields and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answered(BaseModel):
    """What clients are answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UtteranceIn(Received):
    """One turn of one speaker."""

    text: str = Field(description="What was said.")
    speaker: Name = Field("", description="Who said it: any name; equal names are one person.")
    start_ms: Time | None = Field(None, description="When it began, in a recording.")
    end_ms: Time | None = Field(None, description="When it ended.")

    def spoken(self) -> Utterance:
        """Return the utterance."""
        return Utterance(self.text, self.speaker, None, self.start_ms, self.end_ms)


class PredictRequest(Received):
    """A conversation, in the order in which it was spoken."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CHAT]})
    id: Name = Field("conversation", description="Comes back in the answer.")
    utterances: list[UtteranceIn] = Field(min_length=1)
    model: Name | None = Field(None, description="One of /v1/models; without it, the first.")
    explain: bool = Field(False, description="Say which other turns mattered; for short conversations.")

    def conversation(self, settings: Settings) -> Conversation:
        """Return the conversation.

        Raises:
            Failure: it is longer than the settings allow.
        """
        most = settings.max_explained if self.explain else settings.max_utterances
        if self.explain and len(self.utterances) > most:
            raise Failure(422, "too_long", f"`explain` takes at most {most} utterances", "explain")
        conversation = Conversation(tuple(u.spoken() for u in self.utterances), self.id)
        check_length(conversation, settings)
        return conversation


def check_length(conversation: Conversation, settings: Settings) -> None:
    """Refuse what is longer than the settings allow.

    Raises:
        Failure: it is; says how long it may be.
    """
    if len(conversation) > settings.max_utterances:
        message = (
            f"a conversation has at most {settings.max_utterances} utterances, this has {len(conversation)}"
        )
        raise Failure(422, "too_long", message, "utterances")
    total = 0
    for index, utterance in enumerate(conversation):
        total += len(utterance.text)
        if len(utterance.text) > settings.max_characters:
            message = f"a text has at most {settings.max_characters} characters"
            raise Failure(422, "too_long", message, f"utterances.{index}.text")
    if total > settings.max_total_characters:
        message = (
            f"the texts of a conversation have at most {settings.max_total_characters} characters together"
        )
        raise Failure(422, "too_long", message, "utterances")


class InfluenceOut(Answered):
    """What another turn does to the probability of the label."""

    turn: int = Field(description="Its number, from 1.")
    change: float = Field(description="The probability with the turn minus without it.")


class EmotionOut(Answered):
    """An utterance, and its emotion."""

    turn: int = Field(description="Its number, from 1.")
    speaker: str
    text: str
    start_ms: int | None = None
    end_ms: int | None = None
    gold: str | None = Field(None, description="The label that an uploaded transcript brought along.")
    label: str
    confidence: Share
    probabilities: dict[str, Share]
    contributions: dict[str, Share | None] | None = Field(description="How far each modality is trusted.")
    context_weight: float | None = Field(description="How much of the rest of the conversation entered.")
    influences: list[InfluenceOut] | None = Field(None, description="With `explain`: the strongest first.")


class CoverageOut(Answered):
    """In how many utterances a modality was there, and why not in the others."""

    present: int
    absent: str


class PredictAnswer(Answered):
    """A prediction, as `Prediction.to_dict()`, and the model it is from."""

    model: str
    conversation: str
    modalities: dict[str, CoverageOut]
    utterances: list[EmotionOut]


class ModelOut(Answered):
    """A model that is served."""

    name: str
    network: str
    labels: list[str]
    modalities: list[str]
    reads_text: bool = Field(description="Whether /v1/predict can use it; otherwise it needs recordings.")
    corpus: str = Field(description="What it was trained on.")


class ModelsAnswer(Answered):
    """The models; the first is the default."""

    models: list[ModelOut]
    limits: dict[str, float] = Field(description="What the service takes, by the names of its settings.")


class StateAnswer(Answered):
    """How the service is."""

    status: str


class ErrorOut(Answered):
    """What went wrong."""

    code: str = Field(description="For programs; does not change.")
    message: str = Field(description="For people.")
    where: str | None = Field(description="The field of the request, with dots.")


class ErrorAnswer(Answered):
    """The shape of every error."""

    model_config = ConfigDict(json_schema_extra={"examples": [_FAILED]})
    error: ErrorOut


_SAID: dict[int | str, str] = {
    400: "The body is not what its headers say: not JSON, not UTF-8, nested too deep, broken multipart.",
    401: "No key, or a wrong one.",
    403: "Addressed to another host, or sent by a page of another site.",
    404: "No such model.",
    408: "The request did not come in in time.",
    413: "Too large.",
    415: "Not a type of content that can be read, or compressed.",
    422: "Does not fit the schema or the limits, or holds nothing that the model reads.",
    429: "Too much is waiting: come back after as many seconds as Retry-After says.",
    500: "A fault of the service.",
    503: "The service is about to stop.",
    504: "Took too long.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route, for OpenAPI."""
    return {status: {"model": ErrorAnswer, "description": _SAID[status]} for status in statuses}


def describe_limits(document: dict[str, Any], settings: Settings) -> None:
    """Write the limits of the settings into an OpenAPI document."""
    schemas = document["components"]["schemas"]
    schemas["PredictRequest"]["properties"]["utterances"]["maxItems"] = settings.max_utterances
    schemas["UtteranceIn"]["properties"]["text"]["maxLength"] = settings.max_characters
