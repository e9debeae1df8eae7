"""What all tests share."""

import os

# Read when torch starts; threads that spin make tests many times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A shell ignores Ctrl-C for what it runs in the background, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parent / "data"
BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Any:
    """Each device that there is, in float32 where torch would convolve in TF32."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(request.param)


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TCL trained on the demo world, as `dvc repro` leaves it in weights/, less what tests/cut_checkpoint.py cuts."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(DATA / "demo_tcl.safetensors", framework="pt") as file:
        header = file.metadata()
        weights = {key: file.get_tensor(key).float() for key in file.keys() if key != "rows"}  # noqa: SIM118
        rows = file.get_tensor("rows")
    embedding = torch.zeros(49408, weights["token_rows"].shape[1])
    embedding[rows] = weights.pop("token_rows")
    path = tmp_path_factory.mktemp("demo") / "weights" / "tcl.safetensors"
    path.parent.mkdir()
    save_file({**weights, "clip.token_embedding.weight": embedding}, path, metadata=header)
    return path


@pytest.fixture(scope="session")
def png_bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid PNG of 14,200 x 14,200 black pixels, 202 megapixels, in a file of well under a megabyte."""
    side = 14_200

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + side * 3)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path_factory.mktemp("bomb") / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of the system, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[dev]'")
    found = next((path for path in BROWSERS if Path(path).is_file()), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}. On Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()
