"""The page in a browser."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from mmerc.recognizer import Recognizer
from mmerc.report.palette import looks_of
from mmerc.service.app import create_app
from mmerc.service.page import FILES, POLICY
from mmerc.service.settings import Settings

SAID = (
    "Ann: oh no, the train is late\nBen: late again\nAnn: great, the train is here!\n<b>: fine & <i>late</i>"
)


def test_the_files_of_the_page(client: TestClient) -> None:
    for name in ("", *(f"page/{file}" for file in FILES), "page/colours.css", "page/looks.json"):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.content
    for name in ("page/nothing.js", "page/__init__.py", "page/..%2f__init__.py"):
        assert client.get(f"/{name}").status_code == 404
    assert "unsafe" not in POLICY
    page = client.get("/").text
    assert not re.search(r"\bstyle=|\bon[a-z]+=|<script(?![^>]*src)|<style|https?://", page)
    loaded = re.findall(r'(?:src|href)="(/[^"#]+)"', page)
    assert {f"/page/{name}" for name in ("page.js", "page.css", "icon.svg", "colours.css")} == set(loaded)


def test_the_page_needs_no_key_and_tells_nothing(connect: Any) -> None:
    client = connect(api_keys=("open sesame",))
    assert "tiny" not in client.get("/").text
    assert client.get("/page/page.js").status_code == 200
    assert client.post("/v1/transcripts", content=b"fine").status_code == 401


def test_colours_and_shapes_are_those_of_the_report(client: TestClient) -> None:
    labels = ["joy", "sadness", 'odd "label"']
    style = client.get("/page/colours.css", params={"label": labels}).text
    found = client.get("/page/looks.json", params={"label": labels}).json()
    for k, look in enumerate(looks_of(labels)):
        assert f".e{k}" in style
        assert look.light in style
        assert look.dark in style
        assert found["shapes"][k] == look.shape
    assert sorted(found["order"]) == [0, 1, 2]
    assert client.get("/page/looks.json", params={"label": ["x"] * 101}).status_code == 422


def test_transcripts(client: TestClient) -> None:
    cue = "1\n00:00:01,000 --> 00:00:02,500\nAnn: oh no\n\n2\n00:00:03,000 --> 00:00:04,000\nAnn: fine\n"
    answer = client.post("/v1/transcripts", params={"name": "a/b\\talk.srt"}, content=cue.encode())
    (conversation,) = answer.json()["conversations"]
    assert conversation["id"] == "talk"
    assert conversation["utterances"][0] == {
        "text": "oh no",
        "speaker": "Ann",
        "start_ms": 1000,
        "end_ms": 2500,
    }
    table = "dialogue_id,text\na,fine\nb,late\n"
    several = client.post("/v1/transcripts", params={"name": "x.csv"}, content=table.encode("utf-16"))
    assert [c["id"] for c in several.json()["conversations"]] == ["a", "b"]
    plain = client.post("/v1/transcripts", content=b"Ann: fine").json()["conversations"]
    assert (plain[0]["id"], plain[0]["utterances"][0]["speaker"]) == ("transcript", "Ann")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("talk.srt", b"1\nnonsense", "talk.srt"),
        ("talk.txt", b"", "talk.txt holds no utterances"),
        ("talk.txt", b"\xff\xfe\xfa", "talk.txt"),
        ("../../etc/passwd", b"\0", "passwd is not a text file"),
        ("..", b"", "holds no utterances"),
    ],
)
def test_transcripts_that_cannot_be_read(client: TestClient, name: str, content: bytes, said: str) -> None:
    answer = client.post("/v1/transcripts", params={"name": name}, content=content)
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]


# In a browser


@pytest.fixture(scope="module")
def address(reader: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running service; `with_key` one that wants a key."""
    yield from serve(reader, tmp_path_factory.mktemp("uploads"))


@pytest.fixture
def with_key(reader: Recognizer, tmp_path: Path) -> Iterator[str]:
    yield from serve(reader, tmp_path, api_keys=("open sesame",))


def serve(reader: Recognizer, temporary: Path, **settings: Any) -> Iterator[str]:
    app = create_app({"tiny": reader}, Settings(temporary=str(temporary), session_turns=4, **settings))
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="websockets-sansio"))
        thread = Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
        server.should_exit = True
        thread.join()


Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Open]:
    """Open the page; at the end, no request went elsewhere and nothing unexpected was in the console."""
    contexts, requests, complaints = [], [], []

    def go(to: str = address, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(to)
        if to == address:
            page.wait_for_selector("#model option", state="attached")
        return page

    yield go
    for context in contexts:
        context.close()
    assert all(url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:")) for url in requests)
    # The browser itself notes answers of 4xx.
    assert [said for said in complaints if "Failed to load resource" not in said] == []


def paste(page: Any, text: str = SAID) -> None:
    page.get_by_label("Transcript", exact=True).fill(text)
    page.get_by_role("button", name="Recognise").click()


def say(page: Any, text: str) -> None:
    page.get_by_label("What is said").fill(text)
    page.keyboard.press("Enter")


@pytest.mark.slow
def test_a_pasted_conversation(visit: Open, reader: Recognizer, tmp_path: Path) -> None:
    page = visit()
    paste(page)
    rows = page.locator("#rows > li")
    rows.nth(3).wait_for()
    assert rows.count() == 4
    assert rows.nth(3).locator(".said").text_content() == "fine & <i>late</i>"
    assert rows.nth(3).locator(".who").text_content() == "<b>"
    (tmp_path / "conversation.txt").write_text(SAID, encoding="utf-8")
    for i, (_, emotion) in enumerate(reader.predict(tmp_path / "conversation.txt")):
        assert rows.nth(i).locator(".chip").text_content() == emotion.label
        assert f"{100 * emotion.confidence:.0f} %" in rows.nth(i).locator(".sure").text_content()
    assert page.locator("#timeline a").count() == 4
    rows.nth(0).locator("summary").click()
    assert rows.nth(0).locator("dl").first.locator("dt").count() == len(reader.labels)
    for button, suffix in (("JSON", "json"), ("CSV", "csv")):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download {button}").click()
        content = Path(download.value.path()).read_text(encoding="utf-8")
        assert "fine & <i>late</i>" in content
        assert download.value.suggested_filename == f"emotions.{suffix}"


@pytest.mark.slow
def test_which_turns_mattered_and_filters(visit: Open) -> None:
    page = visit()
    page.get_by_label("Say which other turns mattered").check()
    paste(page)
    row = page.locator("#rows > li").first
    row.locator("summary").click()
    assert row.get_by_text("Turns that mattered most").is_visible()
    total = page.locator("#rows > li").count()
    switch = page.locator("#legend button").first
    switch.click()
    assert switch.get_attribute("aria-pressed") == "true"
    shown = page.locator("#rows > li:visible")
    assert {chip.text_content() for chip in shown.locator(".chip").all()} == {
        switch.get_attribute("data-label")
    }
    switch.click()
    assert shown.count() == total


@pytest.mark.slow
def test_files_and_errors(visit: Open) -> None:
    page = visit()
    cue = b"1\n00:01:01,000 --> 00:01:02,500\nAnn: oh no\n"
    page.get_by_label("Open a file").set_input_files({"name": "a.srt", "mimeType": "", "buffer": cue})
    page.locator("#rows > li").first.wait_for()
    assert page.locator("#rows .when").text_content() == "1:01"
    page.get_by_label("Open a file").set_input_files({"name": "b.srt", "mimeType": "", "buffer": b"1\nno"})
    problem = page.get_by_role("alert")
    problem.wait_for()
    assert "b.srt" in problem.text_content()
    assert page.locator("#rows > li").count() == 1  # what was there stays
    drop = """() => {
      const given = new DataTransfer();
      given.items.add(new File(["text,speaker\\nlate,Ann\\nfine,Ben\\n"], "c.csv"));
      const event = new DragEvent("drop", { dataTransfer: given, cancelable: true });
      document.getElementById("whole").dispatchEvent(event);
    }"""
    page.evaluate(drop)
    page.locator("#rows > li").nth(1).wait_for()
    assert page.locator("#rows .who").all_text_contents() == ["Ann", "Ben"]
    assert problem.is_hidden()


@pytest.mark.slow
def test_turn_by_turn_by_keyboard_alone(visit: Open) -> None:
    page = visit()
    page.get_by_label("Speaker", exact=True).focus()
    page.keyboard.press("Tab")
    texts = ["oh no, the train is late", "late again, is it not fine!", "great", "the train is here!"]
    for text in texts:  # faster than the answers
        page.keyboard.type(text)
        page.keyboard.press("Enter")
    rows = page.locator("#rows > li")
    rows.nth(3).wait_for()
    assert rows.locator(".said").all_text_contents() == texts
    assert page.evaluate("document.activeElement.id") == "turn"
    marked = page.locator("li.revised .changed")
    assert marked.count() >= 1
    assert "before a later turn" in marked.first.text_content()
    assert page.locator("#answer").text_content().startswith(rows.nth(3).locator(".chip").text_content())
    assert "looks ahead" in page.locator("#live-hint").text_content()
    say(page, "one too many")
    page.get_by_role("alert").wait_for()
    assert "full" in page.get_by_role("alert").text_content()
    page.locator("#timeline a[tabindex='0']").focus()
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.turn") == "0"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "turn-1"
    page.get_by_role("button", name="Begin afresh").click()
    assert page.locator("#result").is_hidden()
    say(page, "fine")
    rows.first.wait_for()
    assert rows.count() == 1


@pytest.mark.slow
def test_a_service_that_wants_a_key(visit: Open, with_key: str) -> None:
    page = visit(with_key)
    page.get_by_label("API key of this service").fill("open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector("#model option", state="attached")
    paste(page)
    page.locator("#rows > li").nth(3).wait_for()
    assert page.locator("#key-form").is_hidden()


CHECKS = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_anyone_can_use_it(visit: Open, scheme: str, width: int) -> None:
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    assert page.evaluate(CHECKS) == []
    for text in ("oh no, the train is late", "late again, is it not fine!", "great"):
        say(page, text)
    page.locator("#rows > li").nth(2).wait_for()
    for text in ("late", "one too many"):
        say(page, text)
    page.get_by_role("alert").wait_for()
    for summary in page.locator("#rows summary").all():
        summary.click()
    assert page.evaluate(CHECKS) == []
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(CHECKS) == []
