"""The page in real headless Chromium, used as a visitor would.

TCL_SCREENSHOTS=DIR keeps pictures of what it looked like.
"""

import io
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.web.conftest import Served

pytestmark = pytest.mark.slow
SLIDE = """value => {
  const slider = document.querySelector('#tcl-threshold input[type=range]');
  slider.value = value;
  for (const kind of ['input', 'change', 'pointerup']) slider.dispatchEvent(new Event(kind, {bubbles: true}));
}"""
WORDS = "person\nwall, brick wall\nsea\nbus"


@contextmanager
def visit(chromium: Any, page: Served, *, width: int = 1360, height: int = 900, scheme: str = "light") -> Iterator[Any]:
    """A fresh visitor's view of the page; no request may leave the server, and no script may fail."""
    touch = width < 700
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True, has_touch=touch
    )
    view = context.new_page()
    foreign: list[str] = []
    faults: list[str] = []
    view.on("request", lambda r: None if r.url.startswith((page.url, "data:", "blob:")) else foreign.append(r.url))
    view.on("pageerror", lambda error: faults.append(str(error)))
    view.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    view.goto(page.url)
    view.wait_for_selector("#tcl-words textarea")
    yield view
    assert foreign == []
    assert [fault for fault in faults if "413" not in fault] == []
    context.close()


def give(view: Any, picture: Path, words: str) -> None:
    view.set_input_files("input[type=file]", picture)
    view.wait_for_selector("[data-testid=image] img, .image-container img")
    view.fill("#tcl-words textarea", words)
    view.click("#tcl-ask")


def ready(view: Any, *, old: str | None = None) -> str:
    """Wait for an answer other than `old`; its label map, as a data: address."""
    view.wait_for_function(
        "old => { const f = document.querySelector('#tcl-ours figure[data-ready]');"
        " return f && f.querySelector('.tcl-labels').src !== old }",
        arg=old or "",
    )
    return str(view.get_attribute("#tcl-ours .tcl-labels", "src"))


def keep(view: Any, name: str) -> None:
    if folder := os.environ.get("TCL_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        view.wait_for_timeout(400)
        view.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def message(view: Any) -> str:
    return str(view.wait_for_selector(".toast-body, [data-testid=toast-body]").inner_text())


def test_a_visit(chromium: Any, page: Served, street: Path) -> None:
    with visit(chromium, page) as view:
        keep(view, "empty")
        give(view, street, WORDS)
        first = ready(view)
        view.wait_for_selector("#tcl-baseline figure[data-ready]")
        keep(view, "answer")
        chips = view.locator("#tcl-ours .tcl-chip")
        assert [chip.split("\n")[0] for chip in chips.all_inner_texts()] == ["person", "wall", "sea", "bus"]
        assert re.search(r"Answered in \d", view.inner_text("#tcl-seconds"))

        # Hover a word of the legend, then the picture: the word is in focus, and named under the pointer.
        chips.nth(1).hover()
        view.wait_for_function("document.querySelector('#tcl-ours .tcl-focus').style.opacity === '1'")
        keep(view, "hover")
        box = view.locator("#tcl-ours .tcl-overlay").bounding_box()
        view.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.2)
        view.wait_for_function("document.querySelector('#tcl-ours .tcl-hint').textContent === 'wall'")
        view.mouse.move(2, 2)
        view.wait_for_function("document.querySelector('#tcl-ours .tcl-focus').style.opacity === '0'")
        chips.nth(0).click()
        assert chips.nth(0).get_attribute("aria-pressed") == "true"

        # The threshold, PAMR and the comparison answer at once.
        view.fill("#tcl-threshold input[type=number]", "0.9")
        view.press("#tcl-threshold input[type=number]", "Enter")
        second = ready(view, old=first)
        view.evaluate(SLIDE, 0.2)
        third = ready(view, old=second)
        view.uncheck("#tcl-pamr input")
        ready(view, old=third)
        assert "picture 0 ms" in view.inner_text("#tcl-seconds") or "picture 1 ms" in view.inner_text("#tcl-seconds")
        view.uncheck("#tcl-compare input")
        view.wait_for_selector("#tcl-baseline", state="hidden")

        with view.expect_download() as download:
            view.click("#tcl-save")
        with zipfile.ZipFile(download.value.path()) as archive:
            assert {"street_overlay.png", "street_labels.png", "street_coco.json"} <= set(archive.namelist())
            with Image.open(io.BytesIO(archive.read("street_labels.png"))) as labels:
                assert labels.size == (240, 180)


def test_an_example_and_words_that_are_missing(chromium: Any, page: Served) -> None:
    with visit(chromium, page) as view:
        view.click("#tcl-ask")
        assert "Drop a picture first" in message(view)
        view.click("#tcl-examples button >> nth=2")
        ready(view)
        assert "boat" in view.input_value("#tcl-words textarea")
        keep(view, "example")


def test_broken_files_say_so(chromium: Any, page: Served, street: Path, png_bomb: Path, tmp_path: Path) -> None:
    broken = tmp_path / "page.jpg"
    broken.write_text("<!doctype html><html></html>")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(30 << 20))
    with visit(chromium, page) as view:
        view.set_input_files("input[type=file]", broken)
        view.wait_for_timeout(1000)
        view.fill("#tcl-words textarea", "sky")
        view.click("#tcl-ask")
        assert "page.jpg: not a picture that can be read" in message(view)
        keep(view, "broken")
    with visit(chromium, page) as view:
        view.fill("#tcl-words textarea", "sky")
        view.set_input_files("input[type=file]", png_bomb)
        assert "far more than the 50 megapixels" in message(view)
    with visit(chromium, page) as view:
        view.set_input_files("input[type=file]", large)
        assert "size" in message(view).lower()
    with visit(chromium, page) as view:
        give(view, street, WORDS)
        ready(view)


def test_two_visitors_see_their_own(chromium: Any, page: Served, street: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (90, 60), (90, 120, 240)).save(other)
    with visit(chromium, page) as one, visit(chromium, page) as two:
        give(one, street, "person\nwall")
        give(two, other, "sky")
        ready(one)
        ready(two)
        for view, words, absent in ((one, ["person", "wall"], "other"), (two, ["sky"], "street")):
            chips = view.locator("#tcl-ours .tcl-chip").all_inner_texts()
            assert [chip.split("\n")[0] for chip in chips] == words
            assert absent not in view.content()
        shapes = [view.evaluate("document.querySelector('#tcl-ours .tcl-labels').naturalWidth") for view in (one, two)]
        assert shapes == [240, 90]
        two.reload()
        two.wait_for_selector("#tcl-words textarea")
        assert two.locator("figure").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(scheme: str, chromium: Any, page: Served, street: Path) -> None:
    with visit(chromium, page, width=375, height=812, scheme=scheme) as view:
        keep(view, f"phone-{scheme}-empty")
        give(view, street, WORDS)
        ready(view)
        view.wait_for_selector("#tcl-baseline figure[data-ready]")
        assert view.evaluate("document.documentElement.scrollWidth") <= 375
        box = view.locator("#tcl-ours .tcl-stage").bounding_box()
        assert box["width"] > 280
        for selector in ("#tcl-ask", "#tcl-save", "#tcl-ours .tcl-chip >> nth=0"):
            assert view.locator(selector).bounding_box()["height"] >= 32
        view.locator("#tcl-ours .tcl-stage").tap(position={"x": box["width"] * 0.1, "y": box["height"] * 0.2})
        view.wait_for_function("document.querySelector('#tcl-ours .tcl-hint').textContent === 'wall'")
        keep(view, f"phone-{scheme}")


def test_dark(chromium: Any, page: Served, street: Path) -> None:
    with visit(chromium, page, scheme="dark") as view:
        give(view, street, WORDS)
        ready(view)
        view.wait_for_selector("#tcl-baseline figure[data-ready]")
        keep(view, "dark")
