"""What the page answers, without a browser: bounds, markup, archives."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcl.errors import TCLError
from tcl.segmenter.segmenter import Segmenter
from tcl.web.answers import MAX_WORDS, SHOWN_SIDE, Desk, Question
from tcl.web.examples import folder_examples, world_examples


@pytest.fixture(scope="module")
def desk(demo_checkpoint: Path) -> Desk:
    return Desk(Segmenter.from_checkpoint(demo_checkpoint))


def test_both_views_and_the_time(desk: Desk, street: Path) -> None:
    question = Question(str(street), "person\nwall, brick wall\nsea", threshold=0.3)
    answer = desk.answer(question)
    for markup, title in ((answer.tcl, "TCL"), (answer.maskclip, "MaskCLIP")):
        assert f"<figcaption>{title}<" in markup
        assert markup.count('class="tcl-chip') == 3
    assert "not found" in answer.tcl
    assert "picture" in answer.seconds
    assert desk.answer(replace(question, compare=False)).maskclip == ""


def test_words_are_text_and_never_markup(desk: Desk, street: Path) -> None:
    answer = desk.answer(Question(str(street), '<script>alert(1)</script>\n"><img src=x onerror=alert(2)>'))
    assert "<script" not in answer.tcl
    assert "<img src=x" not in answer.tcl
    assert "&lt;script&gt;" in answer.tcl


def test_large_pictures_are_shown_smaller_and_saved_whole(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(np.full((1200, 2000, 3), 90, np.uint8)).save(path)
    archive = desk.archive(Question(str(path), "sky"), tmp_path)
    with zipfile.ZipFile(archive) as file:
        names = {"large_overlay.png", "large_labels.png", "large_mask_1_sky.png", "large_coco.json"}
        assert set(file.namelist()) == names
        with file.open("large_labels.png") as labels:
            assert Image.open(labels).size == (2000, 1200)
    result = desk._segment(Question(str(path), "sky"), "tcl", max_side=SHOWN_SIDE)
    assert max(result.size) == SHOWN_SIDE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": None}, "Drop a picture"),
        ({"picture": "http://127.0.0.1:9/a.png"}, "does not fetch"),
        ({"words": " \n"}, "Type a word"),
        ({"words": "\n".join(f"word {i}" for i in range(10_000))}, "too many"),
        ({"words": "\n".join(f"w{i}" for i in range(MAX_WORDS + 1))}, f"at most {MAX_WORDS} at a time"),
        ({"words": "sky\nsky"}, "twice"),
        ({"negative": "x" * 5000}, "too many"),
    ],
)
def test_bounds(changes: dict[str, Any], message: str, desk: Desk, street: Path) -> None:
    with pytest.raises(TCLError, match=message):
        desk.answer(replace(Question(str(street), "sky"), **changes))


def test_broken_pictures(desk: Desk, png_bomb: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<html></html>")
    for path, message in ((png_bomb, "bomb.png: has far more"), (page, "page.jpg: not a picture")):
        with pytest.raises(TCLError, match=message):
            desk.answer(Question(str(path), "sky"))


def test_examples(tmp_path: Path, street: Path) -> None:
    for example in world_examples(tmp_path):
        assert example.file.is_file()
        assert len(example.words) >= 3
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(TCLError, match="no pictures"):
        folder_examples(folder)
    (folder / "a.png").write_bytes(street.read_bytes())
    (folder / "a.txt").write_text("person\nwall")
    assert folder_examples(folder)[0].words == ("person", "wall")
