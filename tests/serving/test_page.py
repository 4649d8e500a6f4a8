"""Web page in a real browser, whose microphone plays a sound file."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
from live_server import SETTINGS, LiveServer, TinyRuns, run_server
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from tones import tone

from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.serving.server import load_runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT = 120_000  # milliseconds; a test takes a few seconds unless the machine is busy


@pytest.fixture(scope="module")
def scored(
    tiny_runs: TinyRuns, uploads: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server of one run that has scores, so that its page has example clips."""
    run = shutil.copytree(tiny_runs.plain, tmp_path_factory.mktemp("scored") / "plain")
    test = tiny_runs.manifest / "test.jsonl"
    evaluate(run, test, tiny_runs.cache, EvaluationOptions(samples=0, in_words=False))
    yield from run_server(load_runs([run]), SETTINGS, uploads)


@pytest.fixture(scope="module")
def browser(tiny_runs: TinyRuns, scored: LiveServer) -> Iterator[Browser]:
    """Chromium. Servers start before it: Playwright's event loop then runs in this thread."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(
            f"no browser: none of {', '.join(BROWSERS)} is installed (apt install chromium)"
        )
    microphone = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={tiny_runs.clip}",
    ]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program, args=[*microphone, "--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, server: LiveServer) -> Iterator[Page]:
    yield from opened_page(browser, server)


def opened_page(browser: Browser, server: LiveServer) -> Iterator[Page]:
    """The page, whose every request must stay on this machine, and whose scripts must not fail."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    opened = context.new_page()
    elsewhere: list[str] = []
    failures: list[Any] = []
    opened.on("request", lambda r: elsewhere.append(r.url) if is_elsewhere(r.url, server) else None)
    opened.on("pageerror", lambda error: failures.append(error))
    opened.goto(server.url)
    opened.locator("#send").wait_for()
    yield opened
    assert elsewhere == []
    assert failures == []
    context.close()


def is_elsewhere(url: str, server: LiveServer) -> bool:
    return not url.startswith((server.url, "blob:", "data:"))


def column(page: Page, name: str) -> Locator:
    return page.locator(".run").filter(has=page.get_by_role("heading", name=name, exact=True))


def alert(page: Page) -> Locator:
    return page.get_by_role("alert")


def answered(page: Page, messages: int) -> None:
    """Wait until every run has so many messages and nothing is written any more."""
    for name in ("hears", "plain"):
        expect(column(page, name).locator(".message")).to_have_count(messages)
    expect(page.locator(".busy")).to_have_count(0)
    for name in ("hears", "plain"):
        expect(column(page, name).locator(".message.run p:not(.soft), .note").last).to_be_visible()


def choose(page: Page, file: Path) -> None:
    """Give the page a sound file, as if chosen in the dialog."""
    page.get_by_label("Upload file").click()
    with uploaded(page):
        page.locator("#speech input[type=file]").set_input_files(file)


@contextmanager
def uploaded(page: Page) -> Iterator[None]:
    """Wait until the page has sent its sound to the server, and knows where it is."""
    with page.expect_response("**/gradio_api/upload**"):
        yield
    page.locator("#speech").get_by_role("button", name="Clear").wait_for()
    page.wait_for_timeout(300)


def test_speak_and_be_answered_twice(page: Page) -> None:
    page.locator("#speech").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1800)
    with uploaded(page):
        page.locator("#speech").get_by_role("button", name="Stop").first.click()
    page.locator("#send").click()
    answered(page, 2)
    for name in ("hears", "plain"):
        own = column(page, name)
        expect(own.locator(".bars tr")).to_have_count(5)
        shares = [float(v.split()[0]) for v in own.locator(".bars .value").all_inner_texts()]
        assert sum(shares) == pytest.approx(100, abs=0.5)
        expect(own.get_by_role("img", name="arousal")).to_be_visible()
        expect(own.locator("figcaption")).to_contain_text("dominance")
        expect(own.get_by_role("img", name="waveform")).to_be_visible()
    expect(column(page, "hears").locator(".transcript")).to_contain_text("Heard, ")
    expect(column(page, "plain").locator(".transcript")).to_contain_text("s of speech.")
    expect(page.locator("#speech").get_by_role("button", name="Record", exact=True)).to_be_visible()
    page.locator("#text textarea").fill("And now?")
    page.locator("#send").click()
    answered(page, 4)
    for name in ("hears", "plain"):
        expect(column(page, name).locator(".message.user").last).to_contain_text("And now?")
    page.locator("#again").click()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator(".bars")).to_have_count(0)


def test_a_file_gives_the_numbers_of_the_api(
    page: Page, server: LiveServer, tiny_runs: TinyRuns
) -> None:
    choose(page, tiny_runs.clip)
    page.locator("#send").click()
    answered(page, 2)
    own = column(page, "plain")
    run = server.runs[1]
    heard = list(run._heard.values())[-1]
    assert heard.recognition is not None
    shown = own.locator(".bars .value").all_inner_texts()
    assert shown == [f"{100 * p:.1f} %" for p in heard.recognition.probabilities.values()]


def test_an_example_clip_is_answered(browser: Browser, scored: LiveServer) -> None:
    for page in opened_page(browser, scored):
        examples = page.locator("#examples").get_by_role("button")
        expect(examples.first).to_contain_text(": ")  # emotion and text
        examples.first.click()
        page.locator("#speech").get_by_role("button", name="Clear").wait_for()
        page.wait_for_timeout(1000)
        page.locator("#send").click()
        expect(page.locator(".message")).to_have_count(2)
        expect(page.locator(".bars tr")).to_have_count(5)
        expect(page.locator(".busy")).to_have_count(0)
        expect(page.locator(".message.run, .note").last).to_be_visible()


def test_what_cannot_be_heard_is_told(page: Page, tmp_path: Path) -> None:
    page.locator("#send").click()
    expect(alert(page)).to_contain_text("Record or choose a clip first")
    soundfile.write(tmp_path / "long.wav", tone(20.5), 16_000)
    soundfile.write(tmp_path / "eight.wav", tone(1.5, channels=8), 16_000)
    (tmp_path / "<img src=x onerror=alert(1)>.wav").write_bytes(b"RIFF" + bytes(range(200)))
    files = {
        "long.wav": "too long, 20.50 s > 20 s",
        "eight.wav": "found 8 channels, expected 2 at most",
        "<img src=x onerror=alert(1)>.wav": "cannot be decoded",
    }
    for name, message in files.items():
        choose(page, tmp_path / name)
        expect(alert(page)).to_have_count(0)
        page.locator("#send").click()
        expect(alert(page)).to_contain_text(message)
        page.locator("#speech").get_by_role("button", name="Clear").click()
    assert page.locator("[role=alert] img").count() == 0
    expect(page.locator(".message")).to_have_count(0)


def test_what_is_written_is_shown_as_text(page: Page) -> None:
    page.locator("#text textarea").fill("<b id=bold>{speech}</b>")
    page.locator("#send").click()
    answered(page, 2)
    own = column(page, "hears")
    expect(own.locator(".message.user")).to_contain_text("<b id=bold>{speech}</b>")
    assert page.locator("#bold").count() == 0


def test_a_phone_needs_no_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#text textarea").fill("x" * 80)
    page.locator("#send").click()
    answered(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in page.locator("#buttons button").all():
        assert button.evaluate("b => b.scrollWidth <= b.clientWidth"), button.inner_text()
