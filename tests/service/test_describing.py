import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

from mmerc.errors import ConfigError
from mmerc.service.settings import Settings

PAGE = (Path(__file__).resolve().parents[2] / "docs/service.md").read_text(encoding="utf-8")
DECLARED = {400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504}


# OpenAPI


def test_the_document_describes_what_is_sent_and_answered(connect: Any) -> None:
    document = (
        connect(max_utterances=7, max_characters=9, api_keys=("a-long-key",)).get("/openapi.json").json()
    )
    assert {"/v1/predict", "/v1/predict/media", "/v1/models", "/healthz", "/readyz", "/metrics"} <= set(
        document["paths"]
    )
    predict = document["paths"]["/v1/predict"]["post"]
    assert {int(status) for status in predict["responses"]} == {200, *DECLARED}
    schemas = document["components"]["schemas"]
    assert schemas["PredictRequest"]["properties"]["utterances"]["maxItems"] == 7
    assert schemas["UtteranceIn"]["properties"]["text"]["maxLength"] == 9
    assert "HTTPValidationError" not in schemas
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}


def test_the_examples_are_accepted(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    (example,) = schemas["PredictRequest"]["examples"]
    example["utterances"][0]["text"] += " late"  # a word that the tiny model reads
    assert client.post("/v1/predict", json=example).status_code == 200


def test_no_page_asks_another_host(client: TestClient) -> None:
    assert client.get("/docs").status_code == 404
    assert client.get("/redoc").status_code == 404
    assert not re.findall(r"https?://", json.dumps(client.get("/openapi.json").json()))


def fuzz(client: TestClient, examples: int) -> None:
    """Send what the document allows, and what it does not, to every route of ours."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    checks = [
        c for c in schemathesis.checks.CHECKS.get_all() if c.__name__ not in ("positive_data_acceptance",)
    ]  # not every text can be read by every model
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @settings(max_examples=examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                case.call_and_validate(checks=checks)

            try:
                check()
            except Unsatisfiable:  # nothing to send wrong: a route without parameters
                assert not operation.body
                assert not list(operation.iter_parameters())


@pytest.mark.slow
def test_a_few_requests_made_up_from_the_document(client: TestClient) -> None:
    fuzz(client, examples=3)


@pytest.mark.slow
def test_many_requests_made_up_from_the_document(client: TestClient) -> None:
    fuzz(client, examples=200)


# Settings


def test_settings_from_the_environment() -> None:
    environment = {
        "MMERC_API_KEY": "first-key, second-key",
        "MMERC_SERVE_QUEUE": "7",
        "MMERC_SERVE_TIMEOUT_S": "0.5",
        "MMERC_SERVE_ALLOWED_HOSTS": "a.example b.example",
        "OTHER": "x",
    }
    found = Settings.read(environment, {"queue": 9})
    assert (found.queue, found.timeout_s, found.allowed_hosts) == (9, 0.5, ("a.example", "b.example"))
    assert found.api_keys == ("first-key", "second-key")
    assert "first-key" not in repr(found)
    assert Settings.read({}) == Settings()


@pytest.mark.parametrize(
    ("environment", "given", "says"),
    [
        ({"MMERC_SERVE_QUEU": "1"}, {}, "MMERC_SERVE_…: unknown key 'queu'; did you mean 'queue'?"),
        ({"MMERC_SERVE_QUEUE": "many"}, {}, "queue = 'many': Input should be a valid integer"),
        ({}, {"queue": 0}, "serve.queue must be above 0, not 0"),
        ({}, {"drain_s": -1}, "serve.drain_s must be at least 0"),
        ({}, {"quue": 1}, "did you mean 'queue'?"),
        ({}, {"api_keys": "a-long-key"}, "read from the environment variable MMERC_API_KEY alone"),
        ({"MMERC_API_KEY": "short"}, {}, "MMERC_API_KEY: a key has at least 8 characters"),
    ],
)
def test_settings_that_are_wrong(environment: dict[str, str], given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Settings.read(environment, given)
    assert says in str(error.value)
    assert "short" not in str(error.value)


# docs/service.md


def test_the_page_lists_every_setting() -> None:
    rows = dict(re.findall(r"^\| `(?!mmerc_)(\w+)` \| (\S*) \|", PAGE, re.MULTILINE))
    expected = {f.name: f.default for f in fields(Settings) if f.name != "api_keys"}
    assert list(rows) == list(expected)
    for name, shown in rows.items():
        value = expected[name]
        assert shown.replace("_", "") == (f"{value:g}" if isinstance(value, float) else str(value or "")), (
            name
        )


def test_the_page_lists_every_count(client: TestClient) -> None:
    client.get("/v1/sessions/none")  # from then on, sessions are counted
    names = set(re.findall(r"^# HELP (mmerc_\w+) ", client.get("/metrics").text, re.MULTILINE))
    listed = set(re.findall(r"^\| `(mmerc_\w+)` \|", PAGE, re.MULTILINE))
    assert listed == {name for name in names if not name.endswith("_created")}


def test_the_page_lists_every_error() -> None:
    source = Path(__file__).resolve().parents[2] / "src/mmerc/service"
    text = "".join(p.read_text(encoding="utf-8") for p in source.glob("*.py"))
    codes = set(re.findall(r"Failure\(\s*[\w.]+,\s*\"(\w+)\"", text))
    assert codes <= set(re.findall(r"`(\w+)`", PAGE)), codes
