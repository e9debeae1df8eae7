"""What the page answers: pictures and words within bounds in, markup and files out. Knows nothing of Gradio."""

from __future__ import annotations

import base64
import html
import io
import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tcl.errors import TCLError
from tcl.inference.overlays import class_colours
from tcl.segmenter.drawing import draw_overlay
from tcl.segmenter.features import Method
from tcl.segmenter.result import Segmentation
from tcl.segmenter.segmenter import Segmenter
from tcl.segmenter.source import is_address, read_picture
from tcl.segmenter.words import parse_labels

MAX_WORDS = 40
MAX_TEXT = 4000
MAX_PIXELS = 50_000_000
NO_ADDRESSES = "This page does not fetch pictures from addresses. Upload the picture itself."
SHOWN_SIDE = 896
"""Pixels of the longer side of what is shown; downloads have the picture's own size."""


@dataclass(frozen=True)
class Question:
    """All controls of the page. picture: path of the upload, or an address where these are allowed."""

    picture: str | None
    words: str
    negative: str = ""
    threshold: float = 0.5
    maskclip_threshold: float = 0.5
    pamr: bool = True
    compare: bool = True


@dataclass(frozen=True)
class Answer:
    """Markup of the two views (the second is empty unless the comparison is wanted) and of the time they took."""

    tcl: str
    maskclip: str
    seconds: str


class Desk:
    """Answers questions with one segmenter, within the page's bounds. allow_addresses: fetch pictures from the web."""

    def __init__(self, segmenter: Segmenter, *, allow_addresses: bool = False) -> None:
        self.segmenter = segmenter
        self.allow_addresses = allow_addresses

    def answer(self, question: Question) -> Answer:
        """Raises TCLError, with a message for the page, if there is no picture or no word, or too much of either."""
        ours = self._segment(question, "tcl", max_side=SHOWN_SIDE)
        seconds = ours.seconds
        theirs = ""
        if question.compare:
            theirs = view(self._segment(question, "maskclip", max_side=SHOWN_SIDE), "MaskCLIP")
        parts = ", ".join(f"{name} {_time(value)}" for name, value in seconds._asdict().items())
        return Answer(view(ours, "TCL"), theirs, f"Answered in <b>{_time(seconds.total)}</b>: {parts}.")

    def archive(self, question: Question, folder: Path) -> Path:
        """Everything that `save` writes, at the picture's own size, as one zip file below `folder`."""
        result = self._segment(question, "tcl", max_side=None)
        place = Path(tempfile.mkdtemp(dir=folder))
        stem = Path(result.picture.name).stem[:60] or "picture"
        written = result.save(place / "files", stem=stem, soft=True, coco=True)
        archive = place / f"{stem}_masks.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
            for path in written.values():
                file.write(path, path.name)
                path.unlink()
        return archive

    def _segment(self, question: Question, method: Method, *, max_side: int | None) -> Segmentation:
        if not question.picture:
            raise TCLError("Drop a picture first, or choose one of the examples.")
        if is_address(question.picture) and not self.allow_addresses:
            raise TCLError(NO_ADDRESSES)
        picture = read_picture(question.picture, max_pixels=MAX_PIXELS)
        return self.segmenter(
            picture,
            _lines(question.words, "Type a word or two first: what should be found?"),
            negative=_lines(question.negative, None),
            background=question.threshold if method == "tcl" else question.maskclip_threshold,
            pamr=question.pamr,
            method=method,
            max_side=max_side,
        )


def _lines(text: str, missing: str | None) -> list[str]:
    """The lines of a text field that are not empty, within bounds; missing: what to say if there are none."""
    if len(text) > MAX_TEXT:
        raise TCLError(f"{len(text):,} characters are too many: at most {MAX_TEXT:,}, in {MAX_WORDS} lines.")
    lines = [line for line in text.splitlines() if line.strip()]
    if missing and not lines:
        raise TCLError(missing)
    parse_labels(lines, kind="Lines", most=MAX_WORDS)
    return lines


def view(result: Segmentation, title: str) -> str:
    """A figure: the picture under its masks, and a legend of buttons; viewer.js lets both answer to hover and touch."""
    overlay = draw_overlay(result.picture.pixels, result.labels, result.words, legend=False)
    chips = "".join(_chip(result, index, word) for index, word in enumerate(result.words, start=1))
    names = html.escape(json.dumps(result.words), quote=True)
    return (
        f'<figure class="tcl-view" data-words="{names}">'
        f"<figcaption>{html.escape(title)}</figcaption>"
        '<div class="tcl-stage">'
        f'<img class="tcl-picture" alt="" src="{_data(Image.fromarray(result.picture.pixels), "jpeg")}">'
        f'<img class="tcl-overlay" alt="Masks of {html.escape(", ".join(result.words), quote=True)}" '
        f'src="{_data(overlay, "jpeg")}">'
        f'<img class="tcl-labels" alt="" src="{_data(Image.fromarray(result.labels.astype(np.uint8)), "png")}">'
        '<canvas class="tcl-focus"></canvas><output class="tcl-hint"></output></div>'
        f'<div class="tcl-legend" role="group" aria-label="Words">{chips}</div></figure>'
    )


def _chip(result: Segmentation, index: int, word: str) -> str:
    red, green, blue = class_colours(len(result.words))[index - 1].tolist()
    share = float((result.labels == index).mean())
    absent = "" if share else " tcl-absent"
    about = f"{share:.0%} of the picture, score {result.scores[index - 1]:.2f}" if share else "not found"
    return (
        f'<button type="button" class="tcl-chip{absent}" data-label="{index}" aria-pressed="false" '
        f'title="{html.escape(about, quote=True)}" style="--c:rgb({red},{green},{blue})">'
        f"<i></i>{html.escape(word)}<small>{f'{share:.0%}' if share else '–'}</small></button>"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _data(image: Image.Image, kind: str) -> str:
    """An image as a data: address."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 88} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
