"""python -m stages.download SOURCE: fetch a source's pairs into shards and describe them in a manifest."""

import sys
from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.workspace import data_root, download_workers
from tcl.config import load_config
from tcl.pairs.download import download
from tcl.pairs.fetch import Workers
from tcl.pairs.source import Source
from tcl.pairs.tables import Columns


def main(name: str) -> None:
    settings = load_config().sources[name]
    source = Source(
        name=name,
        annotations=data_root() / settings.annotations,
        format=settings.format,
        columns=Columns(**settings.columns.model_dump()),
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
        workers=Workers(**download_workers()),
        restore=f"dvc repro --force --single-item download@{name}",
    )


if __name__ == "__main__":
    with boundary(f"download {sys.argv[1]}"):
        main(sys.argv[1])
