"""Two mends for installations that lack compiled code which this project never calls.

torchvision's wheel from PyPI is built for CUDA. Beside a CPU build of torch its C++ half does not load, and
`import torchvision`, and with it timm and open_clip, ends in "operator torchvision::nms does not exist".

mmcv-lite is mmcv without its compiled half, which has no binary packages for current versions of torch. mmsegmentation
imports `mmcv.ops` all the same, and that ends in "No module named 'mmcv._ext'".

Both functions do nothing where nothing is missing, may be called any number of times, and have to be called before the
first import of the package in question. What is missing still fails, with a clear message, if it is ever called.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
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
    sys.modules["mmcv._ext"] = _MissingExtension("mmcv._ext")
    try:
        importlib.import_module("mmcv.ops")
    finally:
        del sys.modules["mmcv._ext"]


class _MissingExtension(ModuleType):
    """A module in which every function exists and raises when it is called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise RuntimeError(f"mmcv.ops.{name} needs the compiled mmcv; mmcv-lite is installed, which lacks it.")

        return missing
