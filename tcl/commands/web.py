"""`tcl web`: the page on which words find what they name, on this machine alone unless asked."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tcl.commands.segment import add_checkpoint_options, open_segmenter


def add_parser(commands: Any) -> None:
    """Add the command's options."""
    command = commands.add_parser("web", help="serve a page to segment pictures in the browser")
    command.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone; 0.0.0.0: all")
    command.add_argument("--port", type=int, default=7860, help="default: 7860")
    command.add_argument("--examples", type=Path, metavar="DIR", help="pictures to offer instead of the demo world's")
    command.add_argument(
        "--addresses", action="store_true", help="let visitors give addresses, which this server then fetches"
    )
    add_checkpoint_options(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serve until interrupted or asked to end; either way nothing that visitors sent is left behind."""
    from tcl.web.serve import serving

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    segmenter = open_segmenter(arguments)
    with serving(
        segmenter,
        name=Path(arguments.checkpoint).stem if arguments.checkpoint else "the checkpoint of the last training",
        host=arguments.host,
        port=arguments.port,
        examples=arguments.examples,
        allow_addresses=arguments.addresses,
    ) as address:
        print(f"Open {address} (Ctrl-C ends it).", flush=True)
        threading.Event().wait()
