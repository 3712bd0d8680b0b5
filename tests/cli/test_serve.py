from pathlib import Path
from typing import Any

import pytest

from mmerc.service.settings import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be served, in place of serving it: (names of models, settings, host, port)."""
    calls: list[Any] = []
    monkeypatch.setattr(
        "mmerc.service.server.serve", lambda models, *rest: calls.append((list(models), *rest))
    )
    monkeypatch.setattr("mmerc.recognizer.load", lambda folder, device: (folder, device))
    for name in ("MMERC_API_KEY", "MMERC_SERVE_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_the_model_in_the_box_on_loopback(mmerc: Any, served: list[Any]) -> None:
    code, _, err = mmerc("serve")
    ((names, settings, host, port),) = served
    assert (code, err, names, host, port) == (0, "", ["meld-text"], "127.0.0.1", 8000)
    assert settings == Settings(allowed_hosts=("localhost", "127.0.0.1", "::1"))


def test_models_names_and_settings(
    mmerc: Any, served: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMERC_SERVE_QUEUE", "5")
    models = ("--model", tmp_path / "one", "--model", f"two={tmp_path}/one", "--model", "meld-text")
    code, _, _ = mmerc(
        "serve", *models, "--port", 0, "--set", "max_utterances=7", "--set", "allowed_hosts=a,b"
    )
    ((names, settings, _, port),) = served
    assert (code, names, port) == (0, ["one", "two", "meld-text"], 0)
    assert (settings.queue, settings.max_utterances, settings.allowed_hosts) == (5, 7, ("a", "b"))


def test_reached_from_other_machines(mmerc: Any, served: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "warning: 0.0.0.0 is reached from other machines" in mmerc("serve", "--host", "0.0.0.0")[2]
    monkeypatch.setenv("MMERC_API_KEY", "a-long-key")
    assert mmerc("serve", "--host", "0.0.0.0")[2] == ""
    assert [call[1].allowed_hosts for call in served] == [(), ()]
    assert served[1][1].api_keys == ("a-long-key",)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "a/x", "--model", "b/x"], "two models are called 'x': name them, --model NAME=FOLDER"),
        (["--set", "queu=1"], "unknown key 'queu'; did you mean 'queue'?"),
        (["--set", "queue=many"], "Input should be a valid integer"),
    ],
)
def test_what_is_refused(mmerc: Any, served: list[Any], words: list[str], says: str) -> None:
    code, _, err = mmerc("serve", *words)
    assert (code, served) == (2, [])
    assert says in err
