"""open_clip's pretrained ViTs: which there are, their sizes, and their weights, checked before they are trusted."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tcl.errors import TCLError
from tcl.files import sha256
from tcl.mends import import_open_clip
from tcl.model.checkpoint import check_weights, is_safetensors
from tcl.model.clip import Clip, ClipSizes, build_clip, clip_sizes
from tcl.model.shapes import clip_shapes
from tcl.model.torch_archive import read_weights

OPENAI = "openai"
"""The tag of OpenAI's own weights in open_clip."""

STATED = {
    "vision_cfg": {"image_size", "patch_size", "width", "layers", "head_width"},
    "text_cfg": {"context_length", "vocab_size", "width", "layers", "heads"},
}
"""What `ClipSizes` takes over of the two towers' configurations; in all else a tower must be open_clip's default."""
AT_TRAINING_ONLY = {"patch_dropout"}


class Pretrained(NamedTuple):
    """A CLIP, float32, in eval mode, and what it was taken from: its name, the file's name and SHA-256."""

    clip: Clip
    origin: dict[str, str]


@dataclass(frozen=True)
class Tower:
    """One of open_clip's pretrained CLIPs.

    address: of OpenAI's file, whose SHA-256 is part of it. repository: of the Hugging Face hub, for all others.
    """

    name: str
    sizes: ClipSizes
    address: str | None
    repository: str | None


def find_tower(name: str) -> Tower:
    """The pretrained CLIP of a name "architecture:tag", as `open_clip.list_pretrained(as_str=True)` lists them.

    Raises TCLError if open_clip has none of that name, or says what of it is not supported here.
    """
    import_open_clip()
    from open_clip import get_model_config, get_pretrained_cfg

    architecture, _, tag = name.partition(":")
    found = get_pretrained_cfg(architecture, tag)
    if not found:
        raise TCLError(f"clip.pretrained: open_clip has no {name!r}; {_hint(architecture)}")
    sizes = _sizes(name, get_model_config(architecture) or {}, quick_gelu=found.get("quick_gelu", False))
    if tag == OPENAI:
        return Tower(name, sizes, address=str(found["url"]), repository=None)
    return Tower(name, sizes, address=None, repository=str(found["hf_hub"]).strip("/"))


def check_sizes(name: str, sizes: ClipSizes) -> Tower:
    """The tower of this name; raises TCLError if `model.clip` asks for other than its sizes."""
    tower = find_tower(name)
    wrong = [
        f"{field.name} is {getattr(sizes, field.name)!r}, must be {getattr(tower.sizes, field.name)!r}"
        for field in fields(ClipSizes)
        if getattr(sizes, field.name) != getattr(tower.sizes, field.name)
    ]
    if wrong:
        raise TCLError(
            f"model.clip: does not fit clip.pretrained = {name}: {'; '.join(wrong)}. A file of conf/clip sets both."
        )
    return tower


def pretrained_clip(name: str, *, sizes: ClipSizes, folder: Path) -> Pretrained:
    """The pretrained CLIP of this name.

    OpenAI's file is kept in `folder` and must have its published SHA-256. All others are read from
    <folder>/<repository>/ if they were put there, else from Hugging Face's cache, and fetched into it if need be; they
    have no published checksum. Nothing that such a file contains is executed. Raises TCLError if it cannot be had or
    does not have these sizes, of which the latter is checked first.
    """
    tower = check_sizes(name, sizes)
    file = _openai_file(tower.address, folder) if tower.address else _hub_file(str(tower.repository), folder)
    clip = _open_openai(file) if tower.address else _open_state(file, sizes)
    return Pretrained(clip, {"name": name, "file": file.name, "sha256": sha256(file)})


def openai_clip(file: Path) -> Clip:
    """The ViT in one of OpenAI's own files, float32, in eval mode; raises TCLError if it is none of these."""
    import_open_clip()
    from open_clip import get_pretrained_url, list_pretrained

    found = sha256(file)
    published = [get_pretrained_url(model, tag) for model, tag in list_pretrained() if tag == OPENAI and "ViT" in model]
    if any(found in address for address in published):
        return _open_openai(file)
    raise TCLError(
        f"{file}: neither a CLIP of ours (safetensors) nor a ViT of OpenAI's, of which the SHA-256 are published; this "
        f"file's is {found}."
    )


def _hint(architecture: str) -> str:
    from open_clip import list_pretrained, list_pretrained_tags_by_model

    if tags := list_pretrained_tags_by_model(architecture):
        return f"of {architecture} there are: {', '.join(tags)}."
    near = difflib.get_close_matches(architecture, {known for known, _ in list_pretrained()}, n=3)
    return f"did you mean {', '.join(near)}?" if near else "a name is architecture:tag, as in ViT-B-16:openai."


def _sizes(name: str, config: dict[str, Any], *, quick_gelu: bool) -> ClipSizes:
    """The sizes that a model configuration of open_clip states."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    if foreign := _unsupported(config, {"vision_cfg": vision, "text_cfg": text}):
        raise TCLError(
            f"clip.pretrained: {name} is not supported: {', '.join(foreign)}. The tower must be a plain CLIP ViT: "
            "class token, causal text tower, CLIP's own tokenizer."
        )
    return ClipSizes(
        embed_dim=config["embed_dim"],
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        vision_width=vision.width,
        vision_layers=vision.layers,
        vision_heads=vision.width // vision.head_width,
        context_length=text.context_length,
        vocab_size=text.vocab_size,
        text_width=text.width,
        text_layers=text.layers,
        text_heads=text.heads,
        quick_gelu=quick_gelu or config.get("quick_gelu", False),
    )


def _unsupported(config: dict[str, Any], towers: dict[str, Any]) -> list[str]:
    """What a model configuration asks for beyond `ClipSizes`, as "key = value"."""
    stated = {"embed_dim", "quick_gelu", *towers}
    foreign = {key: value for key, value in config.items() if value and key not in stated}
    for part, tower in towers.items():
        plain = type(tower)()
        foreign |= {
            f"{part}.{field.name}": getattr(tower, field.name)
            for field in fields(tower)
            if field.name not in STATED[part] | AT_TRAINING_ONLY
            and getattr(tower, field.name) != getattr(plain, field.name)
        }
    if isinstance(towers["vision_cfg"].layers, list):  # of a ResNet
        foreign["vision_cfg.layers"] = towers["vision_cfg"].layers
    return [f"{key} = {value!r}" for key, value in foreign.items()]


def _openai_file(address: str, folder: Path) -> Path:
    """OpenAI's file, fetched if it is not there with its published SHA-256."""
    from open_clip import download_pretrained_from_url

    file = folder / Path(address).name
    try:
        download_pretrained_from_url(address, cache_dir=str(folder))
    except (OSError, RuntimeError) as error:
        raise TCLError(
            f"{file}: OpenAI's weights are not there and could not be fetched ({error}). Fetch {address} on a machine "
            "that can, and put it there."
        ) from error
    return file


def _hub_file(repository: str, folder: Path) -> Path:
    """The weights of a repository of the Hugging Face hub; safetensors where there are any."""
    from open_clip import download_pretrained
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    for file in (folder / repository / HF_SAFE_WEIGHTS_NAME, folder / repository / HF_WEIGHTS_NAME):
        if file.is_file():
            return file
    try:
        return Path(download_pretrained({"hf_hub": f"{repository}/"}))
    except OSError as error:
        raise TCLError(
            f"{folder / repository}: holds no weights, nor does Hugging Face's cache, and they could not be fetched "
            f"({error}). Fetch {HF_SAFE_WEIGHTS_NAME}, or if there is none {HF_WEIGHTS_NAME}, of "
            f"https://huggingface.co/{repository} on a machine that can, and put it there."
        ) from error


def _open_openai(file: Path) -> Clip:
    """The CLIP in a file that is known to be OpenAI's, as one of ours."""
    from open_clip import load_openai_model

    source = load_openai_model(str(file), precision="fp32", device="cpu")
    return _built(clip_sizes(source), source.state_dict())


def _open_state(file: Path, sizes: ClipSizes) -> Clip:
    """The CLIP in a file that holds the weights of an open_clip model by their names."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(file) if is_safetensors(file) else read_weights(file, entry="state_dict")
    except SafetensorError as error:
        raise TCLError(f"{file}: not a readable safetensors file, or a truncated one ({error}).") from error
    weights = {key.removeprefix("module."): value for key, value in saved.items()}
    check_weights(weights, clip_shapes(sizes), str(file))
    return _built(sizes, weights)


def _built(sizes: ClipSizes, weights: dict[str, Tensor]) -> Clip:
    clip = build_clip(sizes)
    clip.load_state_dict({key: value.float() for key, value in weights.items()})
    return clip.eval()
