"""The page in a real browser: search, play at the moment, drop a picture, keyboard, jobs, errors, a phone."""

from __future__ import annotations

import base64
import io
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from vidsift.datasets.storyboard import render_frames

pytestmark = pytest.mark.system

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "the page's tests need Chromium: apt-get install chromium (make test does it as root)"
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET) as started,
    ):
        yield started


@pytest.fixture
def shots(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Save pictures of the page for people to look at."""
    folder = Path(request.config.rootpath) / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=folder / f"{name}.png") and None


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """url, size, dark -> a page whose requests stay with the service and whose scripts do not fail."""
    contexts, troubles = [], []

    def make(url: str, width: int = 1280, height: int = 820, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        host = url.split("/")[2]
        page.on(
            "request",
            lambda r: r.url.startswith(("blob:", "data:")) or host in r.url or troubles.append(r.url),
        )
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not troubles


def check_accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    bad = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in SERIOUS]
    assert not bad


def name_of(story: Any, caption: int) -> str:
    return f"story-{story.video_of[caption]:05d}.mp4"


@pytest.mark.parametrize("dark", [False, True])
def test_a_sentence_finds_its_video_and_plays_it_at_the_moment(service, story, opened, shots, dark):
    caption = next(n for n, c in enumerate(story.captions) if c.kind == "scene")
    page = opened(service.url + "/", dark=dark)
    expect(page.locator("#grid li")).to_have_count(12)
    shots(page, f"welcome-{'dark' if dark else 'light'}")
    check_accessible(page)
    page.get_by_label("What should be seen").fill(story.captions[caption].text)
    page.keyboard.press("Enter")
    first = page.locator("#grid .card").first
    expect(first.locator(".name")).to_have_text(name_of(story, caption))
    expect(page.locator("#said")).to_contain_text("out of 14 clips")
    assert page.evaluate("new URLSearchParams(location.search).get('q')") == story.captions[caption].text
    page.wait_for_function(
        "() => [...document.querySelectorAll('#grid img')].slice(0, 4).every((i) => i.naturalWidth > 0)"
    )
    shots(page, f"answers-{'dark' if dark else 'light'}")
    check_accessible(page)
    moment = service.post("/search", {"query": story.captions[caption].text})["hits"][0]["moment"]
    first.click()
    page.wait_for_function(
        "() => { const v = document.querySelector('#video'); return v.currentTime > 0 || v.readyState > 1; }"
    )
    page.wait_for_function(f"() => document.querySelector('#video').currentTime >= {moment['start'] - 0.05}")
    assert page.evaluate("document.querySelector('#video').currentTime") < moment["start"] + 3
    bars = page.locator("#strip button")
    expect(bars).to_have_count(12)
    assert page.locator("#strip button.inside").count() >= 1
    shots(page, f"player-{'dark' if dark else 'light'}")
    check_accessible(page)
    bars.nth(1).click()
    wanted = service.get(
        f"/videos/{service.get('/videos')['videos'][story.video_of[caption]]['video']}/relevance",
        params={"q": "x"},
    )["times"][1]
    page.wait_for_function(f"() => Math.abs(document.querySelector('#video').currentTime - {wanted}) < 2")
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#said")).to_contain_text("like story-")
    assert name_of(story, caption) not in page.locator("#grid .name").all_inner_texts()


def test_what_is_said_is_shown_and_played_from_there(service, opened, shots):
    page = opened(f"{service.url}/?q=captain in Lisbon")
    first = page.locator("#grid .card").first
    expect(first.locator("q")).to_have_text("The captain sails for Lisbon")
    expect(first.locator(".badge")).to_contain_text("words")
    expect(first.locator(".where")).not_to_contain_text("no match")
    expect(first.locator(".time")).to_have_text("0:02 – 0:03")
    expect(page.locator("#grid .spoken:visible")).to_have_count(1)
    shots(page, "words")
    check_accessible(page)
    first.click()
    page.wait_for_function("() => document.querySelector('#video').currentTime >= 1.95")
    assert page.evaluate("document.querySelector('#video').currentTime") < 5
    expect(page.locator("#player-note")).to_contain_text("Said at 0:02 – 0:03")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("words", exact=True).check()
    expect(page.locator("#grid li")).to_have_count(1)
    shots(page, "words-alone")
    check_accessible(page)
    page.get_by_label("pictures", exact=True).check()
    expect(page.locator("#grid li")).to_have_count(14)
    expect(page.locator("#grid .spoken:visible")).to_have_count(0)


def test_a_link_opens_its_question_and_back_goes_back(service, story, opened):
    page = opened(f"{service.url}/?q={story.captions[0].text}")
    expect(page.locator("#grid .name").first).to_have_text(name_of(story, 0))
    expect(page.get_by_label("What should be seen")).to_have_value(story.captions[0].text)
    page.get_by_label("What should be seen").fill("a red ball")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("a red ball")
    page.go_back()
    expect(page.locator("#said")).to_contain_text(story.captions[0].text)
    assert page.locator("#history option").count() == 2


def test_a_picture_can_be_dropped(service, story, opened, shots):
    pixels = render_frames(story.videos[4], 12)[6].transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG")
    page = opened(service.url + "/")
    expect(page.locator("#grid li")).to_have_count(12)
    page.evaluate(
        """(encoded) => {
            const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], 'seen.png', { type: 'image/png' }));
            for (const type of ['dragenter', 'dragover']) document.body.dispatchEvent(
                new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
            window.dropped = data;
        }""",
        base64.b64encode(content.getvalue()).decode(),
    )
    expect(page.locator("#drop")).to_be_visible()
    shots(page, "drop")
    page.evaluate(
        """() => document.body.dispatchEvent(new DragEvent('drop',
            { dataTransfer: window.dropped, bubbles: true, cancelable: true }))"""
    )
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator("#said")).to_contain_text("like seen.png")
    expect(page.locator("#grid .name").first).to_have_text("story-00004.mp4")
    page.locator("#picture").set_input_files(
        {"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(page.locator("#said.error")).to_contain_text("cannot be read as a picture")


def test_everything_can_be_done_by_keyboard(service, story, opened):
    page = opened(service.url + "/")
    expect(page.locator("#grid li")).to_have_count(12)
    page.keyboard.type(story.captions[0].text)
    page.keyboard.press("Enter")
    expect(page.locator("#grid li")).to_have_count(14)
    expect(page.locator("#grid .name").first).to_have_text(name_of(story, 0))
    focused = "[...document.querySelectorAll('#grid .card')].indexOf(document.activeElement)"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == 2
    page.keyboard.press("End")
    assert page.evaluate(focused) == 13
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator("#player")).to_be_visible()
    expect(page.locator("#strip button").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#player")).to_be_hidden()
    assert page.evaluate(focused) == 0, "focus comes back to the card"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"


def test_filters_and_nothing_found(service, opened, shots):
    page = opened(f"{service.url}/?q=a red ball")
    expect(page.locator("#grid li")).to_have_count(14)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Folder or pattern").fill("*/story-0000[123].mp4")
    page.keyboard.press("Tab")
    expect(page.locator("#grid li")).to_have_count(3)
    shots(page, "filters")
    check_accessible(page)
    page.get_by_label("Clips of at least").fill("900")
    page.keyboard.press("Tab")
    expect(page.locator("#blank")).to_contain_text("No clip fits the filters")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#grid li")).to_have_count(14)


def test_indexing_shows_its_progress_and_what_it_found(start, library, tmp_path, opened, shots):
    running = start(2)
    page = opened(running.url + "/")
    expect(page.locator("#grid li")).to_have_count(2)
    content = (library.videos / "story-00009.mp4").read_bytes()
    for number in range(60):
        (tmp_path / "videos" / f"new{number}.mp4").write_bytes(content + b"\x00\x00\x00\x10free%08d" % number)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    page.get_by_role("button", name="Library").click()
    expect(page.locator("#stats")).to_contain_text("2 clips of 2 videos")
    page.get_by_label("Index a folder").fill("/etc")
    page.keyboard.press("Enter")
    expect(page.locator("#job-error")).to_contain_text("outside the folders")
    page.get_by_label("Index a folder").fill(str(tmp_path / "videos"))
    page.keyboard.press("Enter")
    expect(page.locator("#jobs progress")).to_be_visible()
    page.wait_for_function(
        "() => document.querySelector('#jobs .state')?.textContent.includes('files')", timeout=60_000
    )
    shots(page, "job")
    check_accessible(page)
    expect(page.locator("#jobs .state")).to_contain_text("60 added", timeout=90_000)
    page.locator("#jobs summary").click()
    expect(page.locator("#jobs details")).to_contain_text("broken.mp4")
    expect(page.locator("#stats")).to_contain_text("62 clips")


def test_a_token_is_asked_for_once(start, opened, shots):
    running = start(2, "--token", "correct horse")
    page = opened(running.url + "/?q=a red ball")
    expect(page.locator("#login")).to_be_visible()
    page.get_by_role("textbox", name="Token").fill("wrong horse")
    page.keyboard.press("Enter")
    expect(page.locator("#login-error")).to_contain_text("not the token")
    shots(page, "token")
    check_accessible(page)
    page.get_by_role("textbox", name="Token").fill("correct horse")
    page.keyboard.press("Enter")
    expect(page.locator("#grid li")).to_have_count(2)
    page.reload()
    expect(page.locator("#grid li")).to_have_count(2)


def test_a_service_that_is_gone_and_a_file_that_changed_are_said(start, tmp_path, opened, shots):
    running = start(2)
    page = opened(running.url + "/?q=a red ball")
    expect(page.locator("#grid li")).to_have_count(2)
    for path in (tmp_path / "videos").glob("*.mp4"):
        path.write_bytes(b"something else")
    page.locator("#grid .card").first.click()
    expect(page.locator("#video-error")).to_contain_text("changed since it was indexed")
    page.keyboard.press("Escape")
    running.stop(signal.SIGKILL)
    page.get_by_label("What should be seen").fill("a blue star")
    page.keyboard.press("Enter")
    expect(page.locator("#said.error")).to_contain_text("does not answer")
    shots(page, "gone")


def test_an_empty_library_says_what_to_do(tmp_path, opened, shots, start):
    from vidsift.ingest import remove_paths

    running = start(2)
    remove_paths(tmp_path / "videos", tmp_path / "index")
    time.sleep(1.1)
    page = opened(running.url + "/")
    expect(page.locator("#blank")).to_contain_text("The library is empty")
    shots(page, "empty")
    page.locator("#blank").get_by_role("button").click()
    expect(page.get_by_label("Index a folder")).to_be_focused()


def test_a_phone_is_wide_enough(service, story, opened, shots):
    page = opened(f"{service.url}/?q={story.captions[0].text}", width=390, height=780)
    expect(page.locator("#grid li")).to_have_count(14)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.wait_for_function(
        "() => [...document.querySelectorAll('#grid img')].slice(0, 4).every((i) => i.naturalWidth > 0)"
    )
    shots(page, "phone")
    check_accessible(page)
    page.locator("#grid .card").first.click()
    expect(page.locator("#strip button").first).to_be_visible()
    box = page.locator("#player").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    shots(page, "phone-player")
