"""`tcl segment PICTURE WORD ...`: pictures and words in, overlays and label maps out."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tcl.errors import TCLError

if TYPE_CHECKING:
    from tcl.segmenter.result import Segmentation
    from tcl.segmenter.segmenter import Segmenter


def add_parser(commands: Any) -> None:
    """Add the command's options."""
    command = commands.add_parser("segment", help="segment pictures by words")
    command.add_argument("picture", help="a file, a folder, a pattern in quotes ('trip/*.jpg') or an http(s) address")
    command.add_argument("words", nargs="+", metavar="WORD", help="what to find; 'sofa, couch' is one thing, two names")
    command.add_argument("--out", type=Path, default=Path("masks"), metavar="DIR", help="default: masks/")
    command.add_argument("--not", dest="negative", action="append", default=[], metavar="WORD", help="what not to take")
    command.add_argument(
        "--background",
        type=_background,
        default="auto",
        metavar="X",
        help="what a mask must exceed to win a pixel, 0 to 1; auto (default), or none: every pixel gets a word",
    )
    command.add_argument("--pamr", action=argparse.BooleanOptionalAction, help="refine masks along edges, or not")
    command.add_argument("--kp-w", type=float, metavar="X", help="share of the frozen CLIP's own map, 0 to 1")
    command.add_argument("--maskclip", action="store_true", help="ask the frozen CLIP alone (the baseline)")
    command.add_argument("--soft", action="store_true", help="write a soft mask for each word too")
    command.add_argument("--coco", action="store_true", help="write masks as COCO JSON too")
    command.add_argument("--json", action="store_true", help="print what was found as JSON")
    add_checkpoint_options(command)
    command.set_defaults(run=run)


def add_checkpoint_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say which model to use, and on what."""
    command.add_argument(
        "--checkpoint", metavar="C", help="a file or a name that `tcl models` lists; default: weights/tcl.safetensors"
    )
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def open_segmenter(arguments: argparse.Namespace) -> Segmenter:
    """The segmenter that the options name."""
    from tcl.commands.models import find
    from tcl.inference.load import load
    from tcl.segmenter.segmenter import Segmenter

    return Segmenter(load(find(arguments.checkpoint)), device=arguments.device)


def run(arguments: argparse.Namespace) -> None:
    """Segment every picture; those that cannot be read are listed at the end, and make the exit status 1."""
    from tcl.progress import progress
    from tcl.segmenter.words import parse_labels

    pictures = find_pictures(arguments.picture)
    parse_labels(arguments.words)
    if files := [word for word in arguments.words if Path(word).is_file()]:
        raise TCLError(f"words: {files[0]} is a file. Put a pattern of several pictures into quotes: 'trip/*.jpg'.")
    segmenter = open_segmenter(arguments)
    reports, failures = [], []
    bar = progress(
        list(zip(pictures, stems(pictures), strict=True)),
        title="segment",
        unit="picture",
        total=len(pictures),
        shown=len(pictures) > 1,
    )
    for picture, stem in bar:
        try:
            report = _segment(segmenter, picture, stem, arguments)
        except TCLError as error:
            failures.append({"picture": picture, "error": str(error)})
            continue
        reports.append(report)
        if not arguments.json:
            bar.write(_line(report), file=sys.stdout)
    if arguments.json:
        print(json.dumps({"pictures": reports, "failed": failures}, indent=2, ensure_ascii=False))
    if failures:
        listed = "\n  ".join(failure["error"] for failure in failures)
        raise TCLError(listed if len(pictures) == 1 else f"{len(failures)} of {len(pictures)} failed:\n  {listed}")


def find_pictures(given: str) -> list[str]:
    """The pictures that an argument names: an address or a file as it is, all pictures in a folder or of a pattern.

    Raises TCLError if there are none.
    """
    from tcl.segmenter.source import SUFFIXES, is_address

    path = Path(given)
    if is_address(given) or path.is_file():
        return [given]
    candidates = path.iterdir() if path.is_dir() else map(Path, glob.glob(given, recursive=True))
    found = sorted(str(file) for file in candidates if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        kind = "no pictures in this folder" if path.is_dir() else "there is no such file, folder or match"
        raise TCLError(f"{given}: {kind}. Pictures end in {', '.join(SUFFIXES)}.")
    return found


def stems(pictures: Sequence[str]) -> list[str]:
    """How the files of each picture begin: its stem; with suffix and folder where a stem occurs twice."""
    from urllib.parse import urlsplit

    paths = [Path(urlsplit(picture).path if "://" in picture else picture) for picture in pictures]
    count = Counter(path.stem for path in paths)
    names = [path.stem if count[path.stem] == 1 else "_".join([*path.parts[-2:-1], path.name]) for path in paths]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise TCLError(f"{twice[0]}: several pictures would be written by this name. Segment one folder at a time.")
    return [name or "picture" for name in names]


def _segment(segmenter: Segmenter, picture: str, stem: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Segment one picture and write its files: what was found, as plain values."""
    result = segmenter(
        picture,
        arguments.words,
        negative=arguments.negative,
        background=arguments.background,
        pamr=arguments.pamr,
        kp_w=arguments.kp_w,
        method="maskclip" if arguments.maskclip else "tcl",
    )
    written = result.save(arguments.out, stem=stem, soft=arguments.soft, coco=arguments.coco)
    return {
        "picture": picture,
        "width": result.size[1],
        "height": result.size[0],
        "threshold": result.threshold,
        "words": _words(result),
        "files": {kind: str(file) for kind, file in written.items()},
        "seconds": {name: round(value, 4) for name, value in result.seconds._asdict().items()},
    }


def _words(result: Segmentation) -> list[dict[str, Any]]:
    shares = [float(result.where(word).mean()) for word in result.words]
    return [
        {"word": word, "label": index, "score": round(float(score), 4), "share": round(share, 6)}
        for index, (word, score, share) in enumerate(zip(result.words, result.scores, shares, strict=True), start=1)
    ]


def _line(report: dict[str, Any]) -> str:
    found = [f"{each['word']} {each['share']:.1%}" for each in report["words"] if each["share"] > 0]
    seconds, overlay = sum(report["seconds"].values()), report["files"]["overlay"]
    return f"{report['picture']}: {', '.join(found) or 'nothing found'} ({seconds:.2f} s) -> {overlay}"


def _background(text: str) -> float | Literal["auto"] | None:
    if text in ("auto", "none"):
        return "auto" if text == "auto" else None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be auto, none or a number from 0 to 1, got {text!r}") from None
