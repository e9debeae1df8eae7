"""python -m benchmarks.training_on_paper [--tflops 989] [--terabytes 4.8]: what a step of TCL costs, by arithmetic.

Nothing is timed. For each image-text pair of a step (second phase, ViT-B/16 at 224 pixels, 1,024 pairs, bfloat16) and
each part of it: floating-point operations (tcl/model/flops.py), and the bytes that its operations read and write if
each does so by itself, as without torch.compile. Both are turned into time at a device's peak; the defaults are an
H200's. Bytes are counted on tensors that have shapes and no contents, for 64 images at a time, in the types that
autocast on a CPU gives them.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.training import MODELS, Bench
from tcl.model import all_pairs, flops
from tcl.model.clip import Clip
from tcl.training.machine import Machine

BATCH, AT_A_TIME = 1024, 64
PAIRS = 50_001 * BATCH
"""Of the paper's training."""


class Shapes(FakeTensorMode):
    """Within it tensors have no contents, copies of them included."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Shapes:
        return self


class Bytes(TorchDispatchMode):
    """Counts what tensor operations read and write; `total` in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if operation.namespace == "aten" and not operation.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def bytes_of(work: Callable[[], Any]) -> int:
    """Bytes that `work` reads and writes."""
    with Bytes() as counter:
        work()
    return counter.total


@torch.no_grad()
def longest_texts(clip: Clip, tokens: Tensor) -> Tensor:
    """`encode_text` without looking at the tokens, which have no contents: each text fills the whole context."""
    states = clip.transformer(clip.token_embedding(tokens) + clip.positional_embedding, attn_mask=clip.attn_mask)
    return clip.ln_final(states[:, -1]) @ clip.text_projection


def main() -> None:
    """Print the table and what it means for the whole training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=989, help="peak of matrix products, TFLOP/s")
    parser.add_argument("--terabytes", type=float, default=4.8, help="memory bandwidth, TB/s")
    given = parser.parse_args()
    sizes = MODELS["paper"]
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
    all_pairs.CHUNK["cpu"] = all_pairs.CHUNK["cuda"]
    with Shapes():
        bench = Bench(sizes, BATCH, Machine(micro_batch=AT_A_TIME), "bfloat16", torch.device("cpu"))
        bench.model.text_features = partial(longest_texts, bench.model.clip)  # type: ignore[method-assign]
        moved = {
            part: bytes_of(work) / (BATCH if part == "optimiser" else AT_A_TIME) for part, work in bench.parts().items()
        }
    step = flops.tcl_step(sizes, global_batch=BATCH, decoder_only=False)
    done = {
        "text tower": step.text_tower,
        "frozen trunk": step.trunk,
        "grounder": step.grounder,
        "losses": step.losses,
        "masked tower": step.masked_tower,
        "optimiser": 0.0,
    }
    slowest = 0.0
    print("| part | GFLOP | ms | MB | ms |\n|---|---:|---:|---:|---:|")
    for part, operations in done.items():
        slowest += max(operations / given.tflops / 1e12, moved[part] / given.terabytes / 1e12)
        print(row(part, operations, moved[part], given))
    print(row("all", step.total, sum(moved.values()), given))
    print(f"\nPart by part what takes longer: {slowest * 1e3:.2f} ms, ", end="")
    print(f"{step.total / slowest / given.tflops / 1e12:.0%} of the peak, {1 / slowest:.0f} pairs/s.")
    again = flops.decoder(sizes) + flops.copied_blocks(sizes) + step.losses * 2 / 5 + step.masked_tower / 2
    for name, operations in (("whole", step.total), ("in micro-batches", step.total + again)):
        rate = 0.4 * given.tflops * 1e12 / operations
        print(f"Batch {name}: {operations / 1e9:.0f} GFLOP a pair; at 40 % of the peak {rate:.0f} pairs/s, ", end="")
        print(f"{PAIRS / 1e6:.1f} M pairs in {PAIRS / rate / 3600:.1f} hours.")


def row(part: str, operations: float, size: float, given: argparse.Namespace) -> str:
    """One row of the table; size: in bytes."""
    return (
        f"| {part} | {operations / 1e9:.1f} | {operations / given.tflops / 1e9:.3f} "
        f"| {size / 1e6:.0f} | {size / given.terabytes / 1e9:.3f} |"
    )


if __name__ == "__main__":
    main()
