"""The page itself, in Gradio: what is on it and what happens when something is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio_client.utils import is_http_url_like

from tcl.errors import TCLError
from tcl.inference.settings import InferenceSettings
from tcl.segmenter.segmenter import MASKCLIP_BACKGROUND
from tcl.web.answers import MAX_TEXT, NO_ADDRESSES, Desk, Question
from tcl.web.examples import Example

ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "show_progress": "minimal",
    "api_visibility": "private",
}
TITLE = "Segment anything you can name"
INTRODUCTION = (
    f"# {TITLE}\nDrop a picture, say what to find, see where it is. TCL learnt to segment from captions alone. "
    "Checkpoint: {name}."
)
EMPTY = '<div class="tcl-empty">Masks appear here.</div>'
KEPT_FOR = 3600
"""Seconds after which uploads and results are removed; looked for every 10 minutes."""


def _hand_over_files(field: gr.Image) -> gr.Image:
    """Let an image field give the uploaded file as it is, and never fetch an address.

    Gradio would decode the picture before any bound is checked. (It writes a file beside every class that is derived
    from one of its own, so this is done to the object.)
    """
    move = field.async_move_resource_to_block_cache

    async def move_files_alone(source: str | Path | None) -> str | None:
        if source is not None and is_http_url_like(str(source)):
            raise gr.Error(NO_ADDRESSES)
        return await move(source)

    def path_of(payload: Any) -> str | None:
        return None if payload is None else payload.path

    field.__dict__.update(preprocess=path_of, async_move_resource_to_block_cache=move_files_alone)
    return field


class Controls(NamedTuple):
    """Everything that a question is made of, in the order of `Question`."""

    picture: gr.Image
    address: gr.Textbox
    words: gr.Textbox
    negative: gr.Textbox
    threshold: gr.Slider
    maskclip_threshold: gr.Slider
    pamr: gr.Checkbox
    compare: gr.Checkbox


class Views(NamedTuple):
    """Everything that an answer changes."""

    tcl: gr.HTML
    baseline: gr.Column
    maskclip: gr.HTML
    seconds: gr.HTML
    save: gr.Button


def build_page(desk: Desk, *, name: str, examples: Sequence[Example], folder: Path) -> gr.Blocks:
    """The page of a desk; name: of the checkpoint; folder: where archives are written."""
    with gr.Blocks(title=f"TCL: {TITLE}", analytics_enabled=False, delete_cache=(600, KEPT_FOR)) as page:
        gr.Markdown(INTRODUCTION.format(name=name), elem_id="tcl-head")
        with gr.Row(elem_id="tcl-main"):
            with gr.Column(scale=2, min_width=300):
                picture, address = _picture_fields(desk)
                words, negative, ask = _word_fields()
                _example_gallery(examples, picture, words)
            with gr.Column(scale=5, min_width=300):
                live = _live_controls(desk.segmenter.settings)
                views = _views()
        controls = Controls(picture, address, words, negative, *live)
        saved = gr.DownloadButton(elem_id="tcl-saved", elem_classes="tcl-hidden")
        _wire(desk, controls, views, ask=ask, saved=saved, folder=folder)
    return page


def _picture_fields(desk: Desk) -> tuple[gr.Image, gr.Textbox]:
    picture = gr.Image(type="filepath", label="Picture", sources=["upload", "clipboard"], height=250, buttons=[])
    address = gr.Textbox(label="or its address", placeholder="https://", max_lines=1, visible=desk.allow_addresses)
    return _hand_over_files(picture), address


def _word_fields() -> tuple[gr.Textbox, gr.Textbox, gr.Button]:
    words = gr.Textbox(
        label="What to find, one a line",
        info="Names for the same thing go on one line: sofa, couch",
        placeholder="a rusted van\nfog",
        lines=4,
        max_lines=12,
        max_length=MAX_TEXT,
        elem_id="tcl-words",
    )
    with gr.Accordion("What not to confuse it with", open=False, elem_id="tcl-more"):
        negative = gr.Textbox(
            label="One a line",
            info="A word gets no pixel where one of these fits better",
            lines=2,
            max_lines=12,
            max_length=MAX_TEXT,
            elem_id="tcl-negative",
        )
    return words, negative, gr.Button("Segment", variant="primary", elem_id="tcl-ask")


def _example_gallery(examples: Sequence[Example], picture: gr.Image, words: gr.Textbox) -> None:
    gallery = gr.Dataset(
        components=[gr.Image(visible=False)],
        samples=[[str(example.file)] for example in examples],
        type="index",
        label="or try one of these",
        samples_per_page=12,
        elem_id="tcl-examples",
    )

    def choose(index: int) -> list[str]:
        return [str(examples[index].file), "\n".join(examples[index].words)]

    gallery.click(choose, gallery, [picture, words], show_progress="hidden", api_visibility="private")


def _live_controls(settings: InferenceSettings) -> tuple[gr.Slider, gr.Slider, gr.Checkbox, gr.Checkbox]:
    with gr.Row(elem_id="tcl-live"):
        threshold = _threshold("Threshold", settings.background_threshold, "tcl-threshold")
        theirs = _threshold("Threshold of MaskCLIP", MASKCLIP_BACKGROUND, "tcl-maskclip-threshold")
        with gr.Column(min_width=190):
            pamr = gr.Checkbox(settings.pamr, label="Follow edges (PAMR)", elem_id="tcl-pamr")
            compare = gr.Checkbox(True, label="Compare with MaskCLIP", elem_id="tcl-compare")
    return threshold, theirs, pamr, compare


def _threshold(label: str, value: float, identifier: str) -> gr.Slider:
    return gr.Slider(0, 1, value, step=0.01, label=label, elem_id=identifier, min_width=190, buttons=[])


def _views() -> Views:
    with gr.Row(elem_id="tcl-views"):
        with gr.Column(min_width=300):
            ours = gr.HTML(EMPTY, elem_id="tcl-ours")
        with gr.Column(min_width=300, visible=False) as baseline:
            theirs = gr.HTML("", elem_id="tcl-baseline")
    with gr.Row(elem_id="tcl-foot"):
        seconds = gr.HTML("", elem_id="tcl-seconds")
        save = gr.Button("Download results", size="sm", elem_id="tcl-save", interactive=False, min_width=170, scale=0)
    return Views(ours, baseline, theirs, seconds, save)


def _wire(
    desk: Desk, controls: Controls, views: Views, *, ask: gr.Button, saved: gr.DownloadButton, folder: Path
) -> None:
    def answer(*values: Any) -> list[Any]:
        with _messages():
            found = desk.answer(_question(*values))
        baseline = gr.Column(visible=bool(found.maskclip))
        return [found.tcl, baseline, found.maskclip, found.seconds, gr.Button(interactive=True)]

    def again(*values: Any) -> list[Any]:
        """What a change of a control shows: nothing new before there is a picture and a word."""
        question = _question(*values)
        return answer(*values) if question.picture and question.words.strip() else [gr.skip()] * len(views)

    def archive(*values: Any) -> str:
        with _messages():
            return str(desk.archive(_question(*values), folder))

    given, shown = list(controls), list(views)
    gr.on([ask.click, controls.words.submit, controls.address.submit], answer, given, shown, **ONE_AT_A_TIME)
    live = (controls.picture, controls.threshold, controls.maskclip_threshold, controls.pamr, controls.compare)
    gr.on([each.change for each in live], again, given, shown, trigger_mode="always_last", **ONE_AT_A_TIME)
    views.save.click(archive, given, saved, **ONE_AT_A_TIME).success(
        None, js="() => document.querySelector('#tcl-saved').click()", api_visibility="private"
    )


def _question(
    picture: str | None, address: str | None, words: str | None, negative: str | None, *live: Any
) -> Question:
    threshold, theirs, pamr, compare = live
    return Question(
        picture or (address or "").strip() or None,
        words or "",
        negative or "",
        threshold=float(threshold),
        maskclip_threshold=float(theirs),
        pamr=bool(pamr),
        compare=bool(compare),
    )


@contextmanager
def _messages() -> Iterator[None]:
    """Show what the user can mend as a message of the page."""
    try:
        yield
    except TCLError as error:
        raise gr.Error(str(error), duration=12, print_exception=False) from error
