"""python -m stages.checkpoint NAME: the authors' checkpoint as safetensors; fetched if it is not there yet."""

import sys
from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.workspace import data_root
from tcl.config import load_config
from tcl.files import sha256, write_json
from tcl.inference.load import load
from tcl.model.checkpoint import save_tcl
from tcl.transfer import fetch


def main(name: str) -> None:
    config = load_config()
    settings = config.checkpoints[name]
    file = data_root() / settings.path
    if not file.is_file():
        fetch(settings.url, file)
    ours_is_theirs = config.clip.pretrained == "ViT-B-16:openai"
    clip = Path("weights/clip.safetensors") if ours_is_theirs else data_root() / "checkpoints/ViT-B-16.pt"
    model = load(file, clip=clip)  # which is asked for the towers if the checkpoint comes without
    save_tcl(Path(f"weights/{name}.safetensors"), model, inference=model.settings.to_dict())
    write_json(f"manifests/{name}.json", {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)})


if __name__ == "__main__":
    with boundary(f"checkpoint {sys.argv[1]}"):
        main(sys.argv[1])
