"""Mends for imports: two that fail for want of compiled code, and some that take seconds for what is never called.

torchvision's wheel from PyPI is built for CUDA. Beside a CPU build of torch its C++ half does not load, and
`import torchvision`, and with it timm and open_clip, ends in "operator torchvision::nms does not exist".

mmcv-lite is mmcv without its compiled half, which has no binary packages for current versions of torch. mmsegmentation
imports `mmcv.ops` all the same, and that ends in "No module named 'mmcv._ext'".

open_clip imports all of timm and, where it is installed, of transformers for towers that are not CLIP's own, and
torchvision, which imports torch's compiler for one operator; mmsegmentation's data sets import `mmcv.ops` for a loss
and albumentations for one augmentation. Together they take longer than all that is used.

All functions do nothing where nothing is missing, may be called any number of times, and have to be called before the
first import of the package in question. What is missing still fails, with a clear message, if it is ever called.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

_NMS_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Any] = []  # torch forgets an operator as soon as the library that declares it is collected


def mend_torchvision() -> None:
    """Declare the operators `nms` and `qnms`, without an implementation, where torchvision's own cannot be loaded."""
    if _declared or "torchvision" in sys.modules:
        return
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None or _loads_compiled_torchvision():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _NMS_SCHEMA)
    _declared.append(library)


def _loads_compiled_torchvision() -> bool:
    """Whether torchvision's compiled half loads here; torchvision loads the same file again, which costs nothing."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for path in (*Path(folder).glob("_C*.so"), *Path(folder).glob("_C*.pyd")):
            try:
                torch.ops.load_library(path)
            except OSError:
                continue
            return True
    return False


def mend_mmcv() -> None:
    """Import `mmcv.ops` with a stand-in for the compiled `mmcv._ext`, where mmcv has none.

    The stand-in leaves `sys.modules` again: mmengine asks whether `mmcv._ext` exists and must be told that it does not.
    """
    mend_torchvision()
    if "mmcv.ops" in sys.modules or importlib.util.find_spec("mmcv._ext") is not None:
        return
    with _standing_in("mmcv._ext", "mmcv.ops.{} needs the compiled mmcv; mmcv-lite is installed, which lacks it."):
        importlib.import_module("mmcv.ops")


def import_open_clip() -> None:
    """Import open_clip without timm and transformers, which it treats as optional.

    torchvision is imported without torch's compiler, before open_clip imports anything that might want one.
    """
    mend_torchvision()
    with _standing_in("torch._dynamo.utils", "torchvision.ops was imported without torch._dynamo.utils.{}."):
        importlib.import_module("torchvision")
    with _standing_in("timm"), _standing_in("transformers"):
        importlib.import_module("open_clip")


def import_mmseg_datasets() -> None:
    """Import `mmseg.datasets` without `mmcv.ops` and albumentations, if nobody has imported them yet."""
    mend_torchvision()
    with _standing_in("albumentations"), _standing_in("mmcv.ops", "mmcv.ops.{} was left out of mmseg.datasets."):
        importlib.import_module("mmseg.datasets")


@contextmanager
def _standing_in(package: str, message: str | None = None) -> Iterator[None]:
    """Let `package` be a stand-in whose functions raise `message`, or fail to import if there is no message.

    Does nothing if `package` has been imported already.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = _StandIn(package, message) if message else None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


class _StandIn(ModuleType):
    """A module in which every function exists and raises when it is called."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name)
        self._message = message

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise RuntimeError(self._message.format(name))

        return missing
