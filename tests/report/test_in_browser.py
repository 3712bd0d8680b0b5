"""What a reader does with a page, in headless Chromium."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conversations import WHEN, made_up
from mmerc.report import write_report

pytestmark = pytest.mark.slow

TEXTS = ("oh no, the train is late", "great news!", "</script><script>document.title='broken'</script>")


@pytest.fixture
def view(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open the report of a made-up conversation; its console must stay empty."""
    said: list[str] = []
    contexts = []

    def open_page(turns: int = 30, *, media: Path | None = None, **settings: Any) -> Any:
        explanation = made_up(turns, texts=TEXTS, speakers=("Ann", "Ben", "Cleo"))
        write_report(tmp_path / "r.html", [explanation], media=media, generated=WHEN)
        contexts.append(browser.new_context(offline=True, **settings))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto((tmp_path / "r.html").as_uri())
        return tab

    open_page.said = said  # type: ignore[attr-defined]  # for the test of a file that is gone
    yield open_page
    assert not said
    for context in contexts:
        context.close()


def until(tab: Any, expression: str, seconds: float = 8) -> None:
    """Wait for something to be true; `wait_for_function` is what the page's policy forbids."""
    end = time.monotonic() + seconds
    while not tab.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def shown(tab: Any) -> int:
    return int(tab.locator(".turn:not([hidden])").count())


def current(tab: Any) -> str | None:
    found = tab.locator(".turn[aria-current]")
    return str(found.get_attribute("id")) if found.count() else None


def test_filters(view: Any) -> None:
    tab = view()
    assert shown(tab) == 30
    assert tab.title() != "broken"
    tab.fill("#search", "GREAT")
    assert shown(tab) == 10
    assert tab.inner_text("#shown") == "10 of 30 turns"
    assert tab.locator(".bar.out").count() == 20
    tab.select_option("#speaker", label="Ann")
    assert shown(tab) == 0
    assert tab.is_visible(".nothing")
    tab.click("#clear")
    assert shown(tab) == 30
    chip = tab.locator(".moods .chip").first
    chip.click()
    assert shown(tab) == int(chip.locator(".n").inner_text())
    assert chip.get_attribute("aria-pressed") == "true"
    chip.click()
    tab.check("#low")
    assert shown(tab) == tab.locator(".turn[data-low]").count() > 0


def test_keys(view: Any) -> None:
    tab = view()
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    assert current(tab) == "c0t1"
    tab.keyboard.press("ArrowDown")
    assert current(tab) == "c0t2"
    tab.keyboard.press("k")
    assert current(tab) == tab.evaluate("document.activeElement.id") == "c0t1"
    tab.keyboard.press("Enter")
    assert tab.locator("#c0t1 details").get_attribute("open") is not None
    tab.keyboard.press("o")
    assert tab.locator("#c0t1 details").get_attribute("open") is None
    tab.keyboard.press("/")
    tab.keyboard.type("jok?")
    assert tab.input_value("#search") == "jok?"
    assert shown(tab) == 0
    tab.keyboard.press("Escape")
    assert shown(tab) == 30
    tab.keyboard.press("l")
    assert tab.is_checked("#low")
    tab.keyboard.press("?")
    assert tab.is_visible("#help")
    tab.uncheck("#keys")
    tab.keyboard.press("Escape")
    tab.keyboard.press("d")
    assert tab.evaluate("document.documentElement.dataset.theme") is None


def test_what_moved_a_turn_is_marked(view: Any) -> None:
    tab = view()
    tab.hover(".bar[data-turn='10']")
    moved = tab.locator("#c0t10 .because a[data-change]").count()
    assert moved == tab.locator(".turn.moves").count() == tab.locator(".arcs path").count() > 0
    assert tab.locator(".turn.moves").first.get_attribute("data-moves").endswith("for #11")
    tab.mouse.move(0, 0)
    assert tab.locator(".arcs path").count() == 0
    tab.click(".bar[data-turn='10']")
    assert current(tab) == "c0t10"


def test_dark_and_light(view: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = view(color_scheme="light"), view(color_scheme="dark")
    assert light.evaluate(ground) == "rgb(247, 246, 242)"
    assert dark.evaluate(ground) == "rgb(18, 22, 27)"
    dark.click("#theme-button")
    assert dark.evaluate(ground) == "rgb(247, 246, 242)"
    light.keyboard.press("d")
    assert light.evaluate(ground) == "rgb(18, 22, 27)"
    light.emulate_media(media="print")
    assert light.evaluate(ground) != "rgb(18, 22, 27)"


@pytest.mark.parametrize("width", [320, 390, 760, 1280])
def test_no_page_is_wider_than_the_screen(view: Any, width: int) -> None:
    tab = view(viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_without_a_script_everything_is_there(view: Any) -> None:
    tab = view(java_script_enabled=False)
    assert tab.locator(".turn").count() == 30
    assert not tab.is_visible(".tools")
    assert tab.is_visible(".legend")
    tab.click("#c0t3 summary")
    assert tab.is_visible("#c0t3 .ranked")
    assert tab.is_visible("#c0t3 .because")


def test_moments_are_played(view: Any, recording: Path) -> None:
    tab = view(6, media=recording)
    tab.click("#c0t2 .play")
    until(tab, "media.currentTime >= 6 && !media.paused")
    assert tab.is_visible("#player")
    assert current(tab) == "c0t2"
    until(tab, "media.paused")
    assert tab.evaluate("media.currentTime") == pytest.approx(8.5, abs=0.6)
    tab.focus("#c0t4")
    tab.keyboard.press("Enter")
    until(tab, "media.currentTime >= 12 && !media.paused")
    assert not tab.is_visible("#lost")


def test_a_recording_that_is_gone(view: Any, tmp_path: Path) -> None:
    media = tmp_path / "talk.mp3"
    media.write_bytes(b"nothing that a browser plays")
    tab = view(media=media)
    tab.wait_for_selector("#lost", state="visible")
    assert "The recording talk.mp3 cannot be played." in tab.inner_text("#lost")
    media.unlink()
    tab.reload()
    tab.wait_for_selector("#lost", state="visible")
    view.said[:] = [text for text in view.said if "ERR_FILE_NOT_FOUND" not in text]
