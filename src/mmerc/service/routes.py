"""`/v1/predict`, `/v1/models`, and how the service is."""

import json
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mmerc.recognizer import Recognizer
from mmerc.service.bodies import JsonRoute
from mmerc.service.schemas import ModelsAnswer, PredictAnswer, PredictRequest, StateAnswer, errors
from mmerc.service.state import Service

LIMITS = (
    "max_body_bytes", "max_utterances", "max_characters", "max_total_characters", "max_explained",
    "max_media_bytes", "max_media_s",
)  # fmt: skip

router = APIRouter(route_class=JsonRoute)


@router.post(
    "/v1/predict",
    summary="Predict the emotions of a conversation",
    tags=["predict"],
    response_model=None,
    responses={
        200: {"model": PredictAnswer},
        **errors(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def predict(request: Request, body: PredictRequest) -> Response:
    """Return the emotion of every utterance, how sure, and what it rests on."""
    service: Service = request.app.state.service
    conversation = body.conversation(service.settings)
    name, _ = service.named(body.model)
    request.state.noted = {"model": name, "utterances": len(conversation), "explain": body.explain}
    if body.explain:
        document = (await service.explain(name, conversation)).to_dict()
    else:
        document = (await service.predict(name, [conversation]))[0].to_dict()
    return _json({"model": name, **document})


@router.get(
    "/v1/models",
    summary="The models that are served",
    tags=["predict"],
    responses={200: {"model": ModelsAnswer}, **errors(401, 403, 500, 503)},
)
async def models(request: Request) -> Response:
    """Return the models, the default first, and what the service takes."""
    service: Service = request.app.state.service
    described = [_described(name, recognizer) for name, recognizer in service.recognizers.items()]
    limits = {name: getattr(service.settings, name) for name in LIMITS}
    return _json({"models": described, "limits": limits})


@router.get(
    "/healthz", summary="Does it live?", tags=["operation"], response_model=StateAnswer, responses=errors(403)
)
async def healthz() -> Response:
    """Say that the service runs."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    summary="Does it take requests?",
    tags=["operation"],
    response_model=StateAnswer,
    responses={503: {"model": StateAnswer, "description": "It is about to stop."}, **errors(403)},
)
async def readyz(request: Request) -> Response:
    """Say whether the service takes requests."""
    if request.app.state.service.stopping:
        return JSONResponse({"status": "stopping"}, 503)
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    summary="Counts for Prometheus",
    tags=["operation"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors(401, 403)},
)
async def metrics(request: Request) -> Response:
    """Return the counts in Prometheus' text format."""
    return Response(
        generate_latest(request.app.state.service.metrics.registry), media_type=CONTENT_TYPE_LATEST
    )


def _described(name: str, recognizer: Recognizer) -> dict[str, Any]:
    checkpoint = recognizer.checkpoint
    return {
        "name": name,
        "network": checkpoint.run.model,
        "labels": recognizer.labels,
        "modalities": recognizer.modalities,
        "reads_text": recognizer.text_encoder() is not None,
        "corpus": checkpoint.info.corpus,
    }


def _json(document: dict[str, Any]) -> Response:
    return Response(json.dumps(document, ensure_ascii=False).encode(), media_type="application/json")
