"""python -m stages.download SOURCE: fetch a source's pairs into shards and describe them in a manifest."""

import os
import sys
from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.workspace import data_root
from tcl.config import load_config
from tcl.pairs.download import download
from tcl.pairs.source import Source


def main(name: str) -> None:
    settings = load_config().sources[name]
    source = Source(
        name=name,
        annotations=data_root() / settings.annotations,
        columns=settings.columns,
        serve=data_root() / settings.serve if settings.serve else None,
        min_success=settings.success_floor,
        image_size=settings.image_size,
        samples_per_shard=settings.samples_per_shard,
        retries=settings.retries,
        timeout=settings.timeout,
    )
    download(
        source,
        folder=data_root() / name,
        manifest_path=Path("manifests/pairs") / f"{name}.json",
        processes=os.cpu_count() or 1,
    )


if __name__ == "__main__":
    with boundary(f"download {sys.argv[1]}"):
        main(sys.argv[1])
