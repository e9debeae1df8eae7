"""python -m stages.prepare DATASET: convert and verify a segmentation data set below the data root."""

import os
import sys

from tcl.commands.boundary import boundary
from tcl.commands.workspace import data_root
from tcl.config import load_config
from tcl.datasets.prepare import prepare
from tcl.files import write_json


def main(dataset: str) -> None:
    settings = load_config().datasets[dataset]
    root = data_root() / settings.root
    manifest = prepare(dataset, root, workers=os.cpu_count() or 1, complete=settings.complete)
    write_json(f"manifests/{dataset}.json", manifest)


if __name__ == "__main__":
    with boundary(f"prepare {sys.argv[1]}"):
        main(sys.argv[1])
