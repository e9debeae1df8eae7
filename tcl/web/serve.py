"""Starting the page: a folder of its own for uploads, no word to anybody else, the guard in front."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tcl.errors import TCLError
from tcl.segmenter.segmenter import Segmenter
from tcl.web.answers import Desk
from tcl.web.examples import folder_examples, world_examples
from tcl.web.guard import Guard

LARGEST_UPLOAD = 25 * 2**20
WAITING = 20
"""Questions that may wait for their turn; more are turned away with a message."""
HERE = Path(__file__).parent


@contextmanager
def serving(
    segmenter: Segmenter,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    examples: Path | None = None,
    allow_addresses: bool = False,
) -> Iterator[str]:
    """Serve the page while the block runs: its address. examples: a folder of pictures instead of the demo world.

    Uploads and results live in a folder of this process, which is removed at the end. Raises TCLError if Gradio is
    not installed or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="tcl-web-") as directory:
        _keep_to_oneself(Path(directory))
        gradio = _gradio()
        from starlette.middleware import Middleware

        from tcl.web.page import build_page

        folder = Path(directory)
        shown = folder_examples(examples) if examples else world_examples(folder / "examples")
        page = build_page(Desk(segmenter, allow_addresses=allow_addresses), name=name, examples=shown, folder=folder)
        page.queue(max_size=WAITING, api_open=False)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                theme=gradio.themes.Base(
                    primary_hue="violet",
                    neutral_hue="slate",
                    font=["system-ui", "sans-serif"],
                    font_mono=["ui-monospace", "monospace"],
                ),
                css_paths=HERE / "page.css",
                head=f"<script>{(HERE / 'viewer.js').read_text(encoding='utf-8')}</script>",
                app_kwargs={"middleware": [Middleware(Guard, largest_upload=LARGEST_UPLOAD + 2**16)]},
                max_file_size=LARGEST_UPLOAD,
                footer_links=[],
                share=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                prevent_thread_lock=True,
                quiet=True,
            )
        except OSError as error:
            raise TCLError(f"port {port}: cannot be used on {host} ({error}). Choose another with --port.") from error
        try:
            yield address
        finally:
            page.close(verbose=False)


def _keep_to_oneself(folder: Path) -> None:
    """Before Gradio is imported: uploads into this folder, no reports of use, no question for newer versions."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise TCLError(
            f"the page needs Gradio, which cannot be imported ({error}): pip install -e '.[web]'."
        ) from error
    return gradio
