"""The authors' checkpoint: read without executing anything that it contains, and renamed to our keys.

The file is a torch zip archive whose pickle also holds an OmegaConf object, which `torch.load` rightly refuses. Here a
reader that knows tensors, dicts and nothing else replaces every other object by an inert stand-in.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcl.errors import TCLError
from tcl.model.build import TCLSizes
from tcl.model.checkpoint import Checkpoint
from tcl.model.clip import ClipSizes

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}

# (official pattern, ours), applied to whole keys; {b} is the index of the grounder's first copied block.
RULES = (
    (r"clip_text_encoder\.(.+)", r"clip.\1"),
    (r"clip_image_encoder\.clip_visual\.(.+)", r"clip.visual.\1"),
    (r"clip_image_encoder\.clip_proj\.proj", r"clip.visual.proj"),
    (r"clip_image_encoder\.clip_proj\.ln\.(.+)", r"clip.visual.ln_post.\1"),
    (r"masker\.image_encoder\.decoder\.decoder\.net\.(\d+)\.conv\.gate\.gate", r"grounder.levels.\1.first.gate"),
    (r"masker\.image_encoder\.decoder\.decoder\.net\.(\d+)\.conv2\.gate\.gate", r"grounder.levels.\1.second.gate"),
    (r"masker\.image_encoder\.decoder\.decoder\.net\.(\d+)\.conv\.(.+)", r"grounder.levels.\1.first.\2"),
    (r"masker\.image_encoder\.decoder\.decoder\.net\.(\d+)\.conv2\.(.+)", r"grounder.levels.\1.second.\2"),
    (r"masker\.image_encoder\.decoder\.image_proj\.proj", r"grounder.projection"),
    (r"masker\.image_encoder\.decoder\.image_proj\.ln\.(.+)", r"grounder.norm.\1"),
    (r"masker\.sim2mask\.w", r"mask_scale"),
    (r"masker\.sim2mask\.b", r"mask_bias"),
    (r"(tcli|tclf)_loss\.logit_scale", r"\1_log_scale"),
)
BLOCK = re.compile(r"masker\.image_encoder\.backbone\.transformer\.resblocks\.(\d+)\.(.+)")


def read_official(path: Path, *, clip_weights: dict[str, Tensor] | None = None) -> Checkpoint:
    """Read the authors' checkpoint; its sizes are read off the weights.

    clip_weights: of an open_clip CLIP, used for towers that the file lacks. `pamr.*` is dropped; missing temperatures
    of the losses keep their initial value. Raises TCLError if the file is not such a checkpoint.
    """
    return translate(_read_model(path), clip_weights=clip_weights, source=str(path))


def translate(saved: dict[str, Tensor], *, clip_weights: dict[str, Tensor] | None = None, source: str) -> Checkpoint:
    """A checkpoint by our keys from weights by the official ones; see `read_official`. source: named in errors."""
    blocks = [int(match.group(1)) for key in saved if (match := BLOCK.fullmatch(key))]
    if not blocks:
        raise TCLError(f"{source}: no TCL checkpoint: it has no key masker.image_encoder.backbone.transformer.*.")
    weights: dict[str, Tensor] = {}
    foreign = []
    for key, tensor in saved.items():
        name = our_name(key, min(blocks))
        if name is not None:
            weights[name] = tensor
        elif not key.startswith("pamr."):
            foreign.append(key)
    if foreign:
        raise TCLError(f"{source}: keys that no TCL checkpoint has: {', '.join(foreign[:20])}.")
    _complete(weights, clip_weights, source)
    return Checkpoint(_sizes(weights, frozen_blocks=min(blocks)), weights)


def our_name(key: str, first_block: int) -> str | None:
    """Our name of an official key, or None if no TCL checkpoint has it; first_block: of those that were copied."""
    if match := BLOCK.fullmatch(key):
        return f"grounder.blocks.{int(match.group(1)) - first_block}.{match.group(2)}"
    for pattern, replacement in RULES:
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return None


def _complete(weights: dict[str, Tensor], clip_weights: dict[str, Tensor] | None, source: str) -> None:
    """Add what an official file may lack: the frozen towers, the losses' temperatures, CLIP's own (unused) one."""
    towers = [key for key in weights if key.startswith("clip.")]
    if not any(key.startswith("clip.visual.") for key in towers) or "clip.token_embedding.weight" not in weights:
        if clip_weights is None:
            raise TCLError(
                f"{source}: the file holds no CLIP towers, and no CLIP weights were given to take them from. "
                "Give the ViT-B/16 CLIP that it was trained on."
            )
        for key, tensor in clip_weights.items():
            weights.setdefault(f"clip.{key}", tensor)
    initial = torch.tensor(1 / 0.07).log()
    for key in ("tcli_log_scale", "tclf_log_scale", "clip.logit_scale"):
        weights.setdefault(key, initial.clone())


def _sizes(weights: dict[str, Tensor], *, frozen_blocks: int) -> TCLSizes:
    """Sizes by the shapes of the weights; the number of heads is width / 64, as in all of OpenAI's CLIPs."""

    def count(pattern: str) -> int:
        return len({match.group(1) for key in weights if (match := re.match(pattern, key))})

    convolution = weights["clip.visual.conv1.weight"]
    side = round((weights["clip.visual.positional_embedding"].shape[0] - 1) ** 0.5)
    context, text_width = weights["clip.positional_embedding"].shape
    clip = ClipSizes(
        embed_dim=weights["clip.visual.proj"].shape[1],
        image_size=side * convolution.shape[2],
        patch_size=convolution.shape[2],
        vision_width=convolution.shape[0],
        vision_layers=count(r"clip\.visual\.transformer\.resblocks\.(\d+)\."),
        vision_heads=convolution.shape[0] // 64,
        context_length=context,
        vocab_size=weights["clip.token_embedding.weight"].shape[0],
        text_width=text_width,
        text_layers=count(r"clip\.transformer\.resblocks\.(\d+)\."),
        text_heads=text_width // 64,
    )
    return TCLSizes(clip, frozen_blocks=frozen_blocks, decoder_levels=count(r"grounder\.levels\.(\d+)\."))


class _Inert:
    """Stands in for any object of the pickle that is neither a tensor nor a plain container; it does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...


class _TensorsOnly(pickle.Unpickler):
    """Unpickles tensors, dicts, lists and numbers of a torch archive; calls nothing that the file names."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in {("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")}:
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module in {"torch", "torch.storage"} and name in STORAGES:
            return STORAGES[name]
        return _Inert

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, *_ = pid
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"storage {key} is of an unknown type")
        entry = self.archive.getinfo(f"{self.root}/data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"storage {key} is compressed, which torch never does")
        return torch.frombuffer(bytearray(self.archive.read(entry)), dtype=dtype)


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    tensor = storage[offset:].as_strided(size, stride)
    if tensor.numel() > storage.numel():
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} claims more than its storage holds")
    return tensor.clone()


def _read_model(path: Path) -> dict[str, Tensor]:
    """The `model` entry of a torch archive: names to tensors."""
    if not path.is_file():
        raise TCLError(f"{path}: there is no such checkpoint file.")
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise TCLError(f"{path}: no torch checkpoint: the archive holds {len(pickles)} data.pkl, not one.")
            content = _TensorsOnly(archive, pickles[0].removesuffix("/data.pkl")).load()
    except TCLError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way at all
        raise TCLError(f"{path}: not a readable torch checkpoint, or a damaged one ({error}).") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise TCLError(f"{path}: no TCL checkpoint: it has no entry 'model' that maps names to tensors.")
    return {str(key): value for key, value in model.items()}
