"""Writing the dense graph as ONNX or for torch.export, and holding it against the model before it is kept."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tcl.errors import TCLError
from tcl.export.dense import DenseMasks
from tcl.files import replacing
from tcl.inference.masks import TCLSegmenter
from tcl.inference.settings import IMAGENET_MEAN, IMAGENET_STD
from tcl.model.clip import clip_sizes

Format: TypeAlias = Literal["onnx", "torch.export"]
Graph: TypeAlias = Callable[[Tensor, Tensor], Tensor]

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch.export": ".pt2"}
TOLERANCE = 1e-4
LARGEST = 8192
WORDS = 3


class Check(NamedTuple):
    """The greatest difference between file and model on one random image of H x W pixels."""

    height: int
    width: int
    difference: float


def export(model: TCLSegmenter, path: Path, *, form: Format, sizes: Sequence[tuple[int, int]] = ()) -> list[Check]:
    """Write a model's dense graph to `path` and compare it with the model, before the file appears there.

    The graph takes `images` [B, 3, H, W], normalised, any size from two patches on, and `words` [N, D], and gives
    `masks` [B, N, H, W]. What a server needs to know stands in its metadata. sizes: to compare on; three of the
    model's own choice if not given: its training size, and two that need padding and other positions.

    Raises TCLError if a mask differs by more than 1e-4, or a package is missing.
    """
    if path.suffix != SUFFIXES[form]:
        raise TCLError(f"{path}: a file for {form} must end in {SUFFIXES[form]}.")
    if form == "onnx":
        _require_onnx()
    side = clip_sizes(model.clip).image_size
    chosen = list(sizes) or [(side, side), (side + 3, 2 * side + 5), (2 * side, side - 1)]
    facts = _facts(model)
    dense = DenseMasks(model, kp_w=model.settings.kp_w).eval()
    with replacing(path) as temporary:
        with _quiet():
            program = _trace(dense, side)
            if form == "onnx":
                _write_onnx(program, temporary, facts)
            else:
                torch.export.save(program, temporary, extra_files={"tcl.json": json.dumps(facts)})
            checks = list(_compare(dense, _opened(temporary, form), chosen))
        if wrong := [check for check in checks if not check.difference <= TOLERANCE]:
            listed = ", ".join(f"{c.height} x {c.width}: {c.difference:.1e}" for c in wrong)
            raise TCLError(
                f"{path}: not written; its masks differ from the model's by more than {TOLERANCE}: {listed}."
            )
    return checks


def write_words(model: TCLSegmenter, words: Sequence[str], path: Path) -> None:
    """Write `names` [N] and their `embeddings` [N, D], float32, as .npz: all that a server needs of the text tower."""
    embeddings = model.class_embeddings(list(words), model.settings.templates).cpu().numpy()
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, names=np.array(words), embeddings=embeddings)


def _trace(dense: DenseMasks, side: int) -> torch.export.ExportedProgram:
    width = dense.model.clip.visual.proj.shape[1]
    smallest = dense.model.patch_size + 1
    batch, height, wide, count = (
        torch.export.Dim("batch", min=1, max=64),
        torch.export.Dim("height", min=smallest, max=LARGEST),
        torch.export.Dim("width", min=smallest, max=LARGEST),
        torch.export.Dim("count", min=1, max=LARGEST),
    )
    # No size of the example equals another or one of the model's, so that none is taken for the same.
    example = (torch.zeros(2, 3, 2 * side - 3, side + 9), torch.zeros(WORDS, width))
    return torch.export.export(
        dense,
        example,
        dynamic_shapes={"images": {0: batch, 2: height, 3: wide}, "words": {0: count}},
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def _write_onnx(program: torch.export.ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    converted = torch.onnx.export(program, input_names=["images", "words"], output_names=["masks"], dynamo=True)
    assert converted is not None
    converted.model.metadata_props.update({key: json.dumps(value) for key, value in facts.items()})
    converted.save(str(path), external_data=False)


def _facts(model: TCLSegmenter) -> dict[str, Any]:
    """What a server must know: how to resize and normalise, the threshold, and the checkpoint's other settings."""
    settings = model.settings.but(pamr=False)
    return {
        "short_side": settings.short_side,
        "long_side": settings.long_side,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "background_threshold": settings.background_threshold,
        "kp_w": settings.kp_w,
        "patch_size": model.patch_size,
    }


def _opened(path: Path, form: Format) -> Graph:
    if form == "torch.export":
        graph: Graph = torch.export.load(path).module()
        return graph
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor, words: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy(), "words": words.numpy()})[0])

    return run


@torch.no_grad()
def _compare(dense: DenseMasks, graph: Graph, sizes: Sequence[tuple[int, int]]) -> Iterator[Check]:
    """Differences from `soft_masks` itself, on random images and words that are close enough to be seen."""
    generator = torch.Generator().manual_seed(0)
    for height, width in sizes:
        images = torch.randn(1, 3, height, width, generator=generator)
        pixels = dense.model.window_features(images, maskclip=False).dense.flatten(2)[0].T
        picked = pixels[torch.randperm(len(pixels), generator=generator)[:WORDS]]
        words = torch.nn.functional.normalize(picked, dim=-1)
        expected = dense.model.soft_masks(images, words, pamr=False, kp_w=dense.kp_w)
        yield Check(height, width, float((graph(images, words) - expected).abs().max()))


def _require_onnx() -> None:
    import importlib.util

    if missing := [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise TCLError(f"ONNX needs {', '.join(missing)}, not installed here: pip install -e '.[export]'.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and advice to their own developers off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
