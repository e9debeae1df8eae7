"""The fused kernels of PAMR against its sparse matrices: on a GPU if there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tcl.inference.pamr import SparseAffinities
from tcl.model.fused import is_fused

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is missing: only builds for GPUs bring it")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

INTERPRETED = """
import sys, torch
from tcl.inference import pamr_triton
pamr_triton.AFFINITY_PIXELS = 256  # the interpreter takes its time by programs, not by pixels
cases = torch.load(sys.argv[1])
torch.save({name: pamr_triton.FusedAffinities(images, dilations).refine(masks, iterations)
            for name, (images, masks, dilations, iterations) in cases.items()}, sys.argv[2])
"""


class Case(NamedTuple):
    images: Tensor
    masks: Tensor
    dilations: tuple[int, ...] = (1, 3)
    iterations: int = 2


def draw(batch: int, masks: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + masks + height + width)
    pictures = torch.randn(batch, 3, height, width, generator=generator, dtype=dtype)
    return pictures, torch.rand(batch, masks, height, width, generator=generator, dtype=dtype)


def cases() -> dict[str, Case]:
    sizes = torch.randint(1, 24, (3, 2), generator=torch.Generator().manual_seed(0)).tolist()
    pictures, masks = draw(1, 3, 9, 11)
    flat = torch.full_like(pictures, 0.3)
    partly = pictures.clone()
    partly[..., :6] = -1.7
    return {
        **{f"{height} x {width}": Case(*draw(2, 3, height, width)) for height, width in sizes},
        "the paper's dilations": Case(*draw(1, 2, 16, 20), dilations=(1, 2, 4, 8, 12, 24)),
        "flat": Case(flat, masks),
        "partly flat": Case(partly, masks),
        "one pixel": Case(*draw(1, 2, 1, 1)),
        "one pixel high": Case(*draw(1, 2, 1, 70)),
        "one pixel wide": Case(*draw(1, 2, 70, 1)),
        "dilations beyond the image": Case(*draw(2, 2, 4, 5), dilations=(6, 50)),
        "one mask": Case(*draw(1, 1, 9, 11), iterations=3),
        "one iteration": Case(*draw(1, 2, 9, 11), iterations=1),
        "several blocks of pixels": Case(*draw(1, 3, 17, 33), dilations=(2,)),
        "not contiguous": Case(
            draw(2, 1, 11, 9)[0].flip(1).mT, draw(2, 11, 9, 5)[1].permute(0, 3, 2, 1)[:, ::2], dilations=(1, 2)
        ),
        "expanded": Case(pictures[:, :1].expand(2, 3, 9, 11), masks.expand(2, 3, 9, 11)),
        "float64": Case(*draw(1, 2, 8, 7, torch.float64)),
        "masks in bfloat16": Case(pictures, masks.bfloat16()),
        "masks in float64": Case(pictures, masks.double()),
    }


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the kernels make of each case."""
    if torch.cuda.is_available():
        from tcl.inference.pamr_triton import FusedAffinities

        return {
            name: FusedAffinities(each.images.cuda(), each.dilations).refine(each.masks.cuda(), each.iterations).cpu()
            for name, each in cases().items()
        }
    given, made = (tmp_path_factory.mktemp("pamr") / name for name in ("given.pt", "made.pt"))
    torch.save({name: tuple(each) for name, each in cases().items()}, given)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED, str(given), str(made)], check=True, env=environment)
    found: dict[str, Tensor] = torch.load(made)
    return found


@pytest.mark.parametrize("name", cases())
def test_the_same_as_sparse_matrices(name: str, fused: dict[str, Tensor]) -> None:
    case = cases()[name]
    expected = SparseAffinities(case.images, case.dilations).refine(case.masks, case.iterations)
    exact = case.images.dtype == torch.float64
    rounding = 2**-8 if case.masks.dtype == torch.bfloat16 else 1e-12 if exact else 1e-5
    assert expected.dtype == case.masks.dtype
    assert_close(fused[name], expected, rtol=0, atol=rounding)


def test_masks_of_other_windows_are_refused(tmp_path: Path) -> None:
    code = (
        "import torch\nfrom tcl.inference.pamr_triton import FusedAffinities\n"
        "affinities = FusedAffinities(torch.zeros(1, 3, 2, 2), (1,))\n"
        "for shape in ((2, 1, 2, 2), (1, 1, 2, 3)):\n"
        "    try:\n        affinities.refine(torch.zeros(shape), 1)\n    except ValueError as error:\n"
        "        print(error)"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    output = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert output.stdout.splitlines() == [
        "masks [2, 1, 2, 2] do not belong to affinities [1, 8, 2, 2].",
        "masks [1, 1, 2, 3] do not belong to affinities [1, 8, 2, 2].",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_without_them_is_told() -> None:
    is_fused.cache_clear()
    with pytest.warns(UserWarning, match="no fused kernels, which is slower"):
        assert not is_fused(torch.device("cuda"))


@on_gpu
def test_a_gpu_runs_them() -> None:
    assert is_fused(torch.device("cuda"))
    assert not is_fused(torch.device("cpu"))


@on_gpu
def test_any_number_of_masks() -> None:
    from tcl.inference.pamr_triton import FusedAffinities

    pictures, masks = (each.cuda() for each in draw(1, 140_000, 2, 3))
    affinities = FusedAffinities(pictures, (1, 2))
    assert torch.equal(affinities.refine(masks, 2)[:, -5:], affinities.refine(masks[:, -5:], 2))


@on_gpu
@pytest.mark.slow
def test_more_values_than_32_bits_count() -> None:
    from tcl.inference.pamr_triton import FusedAffinities

    batch, side = 2, 2000
    channels = 2**31 // (batch * side**2) + 20
    if torch.cuda.mem_get_info()[0] < 3.2 * 4 * batch * channels * side**2:
        pytest.skip("too little GPU memory")
    pictures = draw(batch, 1, side, side)[0].cuda()
    masks = torch.rand(batch, channels, side, side, device="cuda")
    affinities = FusedAffinities(pictures, (1, 24))
    some = torch.cat([masks[:, :3], masks[:, -3:]], dim=1)
    refined = affinities.refine(masks, 2)
    assert torch.equal(torch.cat([refined[:, :3], refined[:, -3:]], dim=1), affinities.refine(some, 2))
