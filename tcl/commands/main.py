"""The `tcl` command: parses the command line and imports what the chosen command needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tcl.commands import compare, convert, data, evaluate, export, models, segment, web
from tcl.commands.boundary import boundary


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="tcl", description="Text-grounded contrastive learning (TCL).")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    config = commands.add_parser("config", help="compose conf/ into params.yaml")
    config.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for Hydra, e.g. profile=paper train.seed=1"
    )
    config.set_defaults(run=_config)

    show = commands.add_parser("show", help="print the main table and where to look further")
    show.add_argument("--report", type=Path, default=Path("report"), metavar="DIR")
    show.set_defaults(run=_show)

    for module in (data, compare, segment, models, web, export, evaluate, convert):
        module.add_parser(commands)
    return top


def main() -> None:
    """Entry point."""
    arguments = parser().parse_args()
    with boundary(f"tcl {arguments.command}"):
        arguments.run(arguments)
        sys.stdout.flush()  # here, where a closed pipe is answered


def _config(arguments: argparse.Namespace) -> None:
    from tcl.commands.config import write_params

    write_params(arguments.overrides)
    print("params.yaml written. `dvc repro` runs what has changed.")


def _show(arguments: argparse.Namespace) -> None:
    from tcl.commands.show import show

    show(arguments.report)


if __name__ == "__main__":
    main()
