"""The page that the stage writes, in real headless Chromium: wide and narrow, light and dark, and on paper.

TCL_SCREENSHOTS=DIR keeps pictures of what it looked like.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tcl.datasets.benchmark import load

from .conftest import ROOT, Checkout, build


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with a report in which one result was made with other settings, and ablations have no results."""
    made = build(tmp_path_factory.mktemp("report") / "checkout", "ablations=core")
    benchmark = load(made.config.report.pictures_of)
    for name in ("tcl", *made.config.baselines.methods):
        made.picture(name, benchmark)
    curve = "step,total,tcli,tclf\n" + "".join(f"{step},{9 / (1 + step)},3.0,2.0\n" for step in range(0, 600, 20))
    (made.folder / "curves").mkdir()
    (made.folder / "curves" / "tcl.csv").write_text(curve)
    made.score("tcl/voc", "voc", 50.0, kp_w=0.5)
    report(made)
    return made


def report(made: Checkout) -> None:
    subprocess.run(
        [sys.executable, "-m", "stages.report"],
        cwd=made.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )


def test_the_page_needs_nothing_beside_it_and_is_the_same_again(written: Checkout) -> None:
    page = written.folder / "report" / "index.html"
    first = page.read_bytes()
    text = first.decode()
    assert "src=" in text
    for place in text.split('src="')[1:]:
        assert place.startswith("data:image/webp;base64,")
    assert "<script" not in text
    assert "other settings" in text
    assert "missing" in text
    assert str(written.folder) not in text
    report(written)
    assert page.read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 375])
def test_the_page_in_a_browser(written: Checkout, chromium: Any, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    view = context.new_page()
    faults: list[str] = []
    foreign: list[str] = []
    view.on("request", lambda each: None if each.url.startswith(("file:", "data:")) else foreign.append(each.url))
    view.on("pageerror", lambda error: faults.append(str(error)))
    view.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    view.goto((written.folder / "report" / "index.html").as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    for link in view.query_selector_all("nav a"):
        assert view.query_selector(str(link.get_attribute("href"))) is not None
    assert view.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    small = "[...document.querySelectorAll('p, td, th, span, summary')].filter(e => e.innerText && "
    assert view.evaluate(small + "parseFloat(getComputedStyle(e).fontSize) < 11).map(e => e.innerText)") == []
    assert (faults, foreign) == ([], [])
    if folder := os.environ.get("TCL_SCREENSHOTS"):
        view.screenshot(path=Path(folder) / f"report-{width}-{scheme}.png", full_page=True)
        view.pdf(path=Path(folder) / "report.pdf", prefer_css_page_size=True)
    context.close()


@pytest.mark.slow
def test_the_page_on_paper(written: Checkout, chromium: Any) -> None:
    """No table may be wider than a sheet of A4, at 96 pixels an inch and margins of 1 cm."""
    context = chromium.new_context(viewport={"width": 718, "height": 1000})
    view = context.new_page()
    view.goto((written.folder / "report" / "index.html").as_uri())
    view.emulate_media(media="print")
    wide = "[...document.querySelectorAll('table')].filter(e => e.getBoundingClientRect().right > 719)"
    assert view.evaluate(wide + ".map(e => e.className)") == []
    context.close()
