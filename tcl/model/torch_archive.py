"""Tensors out of a file that `torch.save` wrote, without executing anything that the file contains.

Such a file is a zip archive: a pickle that describes the saved object, and the bytes of each storage beside it. Pickles
of training runs hold objects of many libraries, which `torch.load` rightly refuses. Here a reader that knows tensors,
dicts and plain values replaces every other object by an inert stand-in, and reads only the storages it is asked for.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcl.errors import TCLError

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_weights(path: Path, *, entry: str) -> dict[str, Tensor]:
    """The dict of names and tensors under `entry` of the saved dict, or the saved dict itself if it is such a one.

    Raises TCLError if the file is missing, damaged, no torch archive, or holds no such dict.
    """
    if not path.is_file():
        raise TCLError(f"{path}: there is no such checkpoint file.")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise pickle.UnpicklingError("it claims to hold more bytes than it has; torch never compresses")
            saved = _Reader(archive).load()
            chosen = saved.get(entry, saved) if isinstance(saved, dict) else None
            if not isinstance(chosen, dict) or not all(map(_is_named_tensor, chosen.items())):
                raise TCLError(f"{path}: no checkpoint: it has no entry {entry!r} that maps names to tensors.")
            return _materialise(archive, chosen)
    except TCLError:
        raise
    except zipfile.BadZipFile as error:
        raise TCLError(f"{path}: neither safetensors nor a torch checkpoint, or a truncated one ({error}).") from error
    except Exception as error:  # a hostile pickle can fail in any way at all
        raise TCLError(f"{path}: not a readable torch checkpoint, or a damaged one ({error}).") from error


@dataclass(frozen=True)
class _Storage:
    """Where the bytes of some tensors lie: a member of the archive, and what its numbers are."""

    member: str
    dtype: torch.dtype


@dataclass(frozen=True)
class _Stored:
    """A tensor that has not been read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], _Stored)


def _materialise(archive: zipfile.ZipFile, stored: Mapping[str, _Stored]) -> dict[str, Tensor]:
    """Read the tensors, each storage once."""
    storages = {each.storage for each in stored.values()}
    flat = {storage: _numbers(archive.read(storage.member), storage.dtype) for storage in storages}
    return {name: _view(flat[each.storage], each) for name, each in stored.items()}


def _numbers(content: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _view(flat: Tensor, stored: _Stored) -> Tensor:
    """The tensor as a view of its storage: however many share one, they take no further memory."""
    tensor = flat[stored.offset :].as_strided(stored.shape, stored.strides)
    if tensor.numel() > flat.numel():
        raise pickle.UnpicklingError(f"a tensor of shape {stored.shape} claims more than its storage holds")
    return tensor


class _Inert:
    """Stands in for any object of the pickle that is neither a tensor nor a plain container; it does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...


class _Reader(pickle._Unpickler):
    """Unpickles the description of the saved object; calls nothing that the file names.

    Python's own unpickler, not the one in C: a few bytes make that one allocate a table of any size.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError(f"the archive holds {len(pickles)} data.pkl, not one")
        super().__init__(io.BytesIO(archive.read(pickles[0])))
        self._root = pickles[0].removesuffix("/data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in {("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")}:
            return lambda storage, offset, shape, strides, *_: _Stored(storage, offset, tuple(shape), tuple(strides))
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module in {"torch", "torch.storage"} and name in STORAGES:
            return STORAGES[name]
        return _Inert

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"storage {key} is of an unknown type")
        return _Storage(f"{self._root}/data/{key}", dtype)
