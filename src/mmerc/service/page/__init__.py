"""The page at `/`: a transcript in, the emotions out, in a browser, with nothing from any other host.

It is made of page.js and the like, and uses `/v1/models`, `/v1/predict`, `/v1/sessions`
and `/v1/transcripts`. Its colours and shapes are those of the report.
"""

import json
from importlib import resources
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from mmerc.report.palette import colours_css, looks_of, stacking
from mmerc.service.failures import Failure
from mmerc.service.page import transcripts

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "drawing.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

router = APIRouter()
static = APIRouter(include_in_schema=False)
Labels = Annotated[list[Annotated[str, Query(max_length=100)]], Query(alias="label", max_length=100)]


def _answer(content: str | bytes, kind: str) -> Response:
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, headers=headers, media_type=kind)


def _read(name: str) -> bytes:
    return resources.files(__name__).joinpath(name).read_bytes()


@static.get("/")
async def index() -> Response:
    """Return the page."""
    return _answer(_read("index.html"), "text/html; charset=utf-8")


@static.get("/page/colours.css")
async def colours(labels: Labels = []) -> Response:  # noqa: B006  FastAPI copies it
    """Return the colours of emotions, those of the report: `.e0` is the first label's, and so on."""
    return _answer(colours_css(looks_of(labels)), FILES["page.css"])


@static.get("/page/looks.json")
async def looks(labels: Labels = []) -> Response:  # noqa: B006  as above
    """Return the shapes of emotions, in a box of 16 × 16, and the order in which they are stacked."""
    found: dict[str, Any] = {
        "shapes": [look.shape for look in looks_of(labels)],
        "order": stacking(labels),
    }
    return _answer(json.dumps(found), "application/json")


@static.get("/page/{name}")
async def part(name: str) -> Response:
    """Return a file that the page loads."""
    if name not in FILES:
        raise Failure(404, "not_found", "the page has no such file")
    return _answer(_read(name), FILES[name])


router.include_router(static)
router.include_router(transcripts.router)
