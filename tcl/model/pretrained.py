"""OpenAI's CLIP through open_clip, checked before it is trusted."""

from __future__ import annotations

from pathlib import Path

from tcl.errors import TCLError
from tcl.mends import import_open_clip
from tcl.model.checkpoint import assign
from tcl.model.clip import Clip, ClipSizes, build_clip, clip_sizes

ARCHITECTURE = "ViT-B-16"


def pretrained_clip(tag: str, *, sizes: ClipSizes, folder: Path) -> Clip:
    """open_clip's pretrained ViT-B/16 of this tag, float32, in eval mode; its file is kept in `folder`.

    A file that is already there is used if its SHA-256 is the published one, which is part of OpenAI's address.
    Raises TCLError if it cannot be had, or does not have these sizes.
    """
    import_open_clip()
    from open_clip import download_pretrained_from_url, get_pretrained_cfg, load_openai_model

    address = get_pretrained_cfg(ARCHITECTURE, tag).get("url")
    if not address:
        raise TCLError(f"clip.pretrained: open_clip has no {ARCHITECTURE} {tag!r}; the paper uses 'openai'.")
    file = folder / Path(address).name
    try:
        path = download_pretrained_from_url(address, cache_dir=str(folder))
    except (OSError, RuntimeError) as error:
        raise TCLError(
            f"{file}: OpenAI's weights are not there and could not be fetched ({error}). Fetch {address} on a machine "
            "that can, and put it there."
        ) from error
    source = load_openai_model(path, precision="fp32", device="cpu")
    if clip_sizes(source) != sizes:
        raise TCLError(f"{file}: holds a CLIP of {clip_sizes(source)}, but model.clip asks for {sizes}.")
    clip = build_clip(sizes)
    assign(clip, {key: value.float() for key, value in source.state_dict().items()}, str(file))
    return clip.eval()
