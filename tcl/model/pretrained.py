"""OpenAI's CLIP through open_clip, checked before it is trusted."""

from __future__ import annotations

from pathlib import Path

from tcl.errors import TCLError
from tcl.files import sha256
from tcl.mends import import_open_clip
from tcl.model.clip import Clip, ClipSizes, build_clip, clip_sizes

ARCHITECTURE = "ViT-B-16"


def pretrained_clip(tag: str, *, sizes: ClipSizes, folder: Path) -> Clip:
    """open_clip's pretrained ViT-B/16 of this tag, float32, in eval mode; its file is kept in `folder`.

    A file that is already there is used if its SHA-256 is the published one, which is part of OpenAI's address.
    Raises TCLError if it cannot be had, or does not have these sizes.
    """
    import_open_clip()
    from open_clip import download_pretrained_from_url

    address = _address(tag)
    file = folder / Path(address).name
    try:
        download_pretrained_from_url(address, cache_dir=str(folder))
    except (OSError, RuntimeError) as error:
        raise TCLError(
            f"{file}: OpenAI's weights are not there and could not be fetched ({error}). Fetch {address} on a machine "
            "that can, and put it there."
        ) from error
    clip = _open(file)
    if clip_sizes(clip) != sizes:
        raise TCLError(f"{file}: holds a CLIP of {clip_sizes(clip)}, but model.clip asks for {sizes}.")
    return clip


def openai_clip(file: Path) -> Clip:
    """The ViT-B/16 in OpenAI's own file, float32, in eval mode; raises TCLError if it is not that very file."""
    published = Path(_address("openai")).parent.name
    if (found := sha256(file)) != published:
        raise TCLError(
            f"{file}: neither a CLIP of ours (safetensors) nor OpenAI's {ARCHITECTURE}, whose SHA-256 is {published}; "
            f"this file's is {found}."
        )
    return _open(file)


def _address(tag: str) -> str:
    import_open_clip()
    from open_clip import get_pretrained_cfg

    address = get_pretrained_cfg(ARCHITECTURE, tag).get("url")
    if not address:
        raise TCLError(f"clip.pretrained: open_clip has no {ARCHITECTURE} {tag!r}; the paper uses 'openai'.")
    return str(address)


def _open(file: Path) -> Clip:
    """The CLIP in a file that is known to be OpenAI's, as one of ours."""
    import_open_clip()
    from open_clip import load_openai_model

    source = load_openai_model(str(file), precision="fp32", device="cpu")
    clip = build_clip(clip_sizes(source))
    clip.load_state_dict({key: value.float() for key, value in source.state_dict().items()})
    return clip.eval()
