"""python -m stages.prepare DATASET: unpack, convert and verify a segmentation data set below the data root."""

import sys

from tcl.commands.boundary import boundary
from tcl.commands.workspace import archive_mirror, data_root, local_processes
from tcl.config import load_config
from tcl.datasets.prepare import prepare
from tcl.files import write_json


def main(dataset: str) -> None:
    settings = load_config().datasets[dataset]
    manifest = prepare(
        dataset,
        data_root() / settings.root,
        workers=local_processes(),
        complete=settings.complete,
        archives=data_root() / settings.archives if settings.archives else None,
        mirror=archive_mirror(),
    )
    write_json(f"manifests/{dataset}.json", manifest)


if __name__ == "__main__":
    with boundary(f"prepare {sys.argv[1]}"):
        main(sys.argv[1])
