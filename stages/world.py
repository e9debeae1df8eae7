"""python -m stages.world: write the demo world's pairs and data sets below the data root."""

import os

from tcl.commands.boundary import boundary
from tcl.commands.workspace import data_root
from tcl.config import load_config
from tcl.errors import TCLError
from tcl.files import write_json
from tcl.world.build import WorldSettings, build


def main() -> None:
    config = load_config()
    if config.world is None:
        raise TCLError(f"params.yaml: profile {config.profile!r} has no world. `tcl config` makes the demo's.")
    manifest = build(
        site=data_root() / "world-site",
        benchmarks=data_root() / "world-benchmarks",
        settings=WorldSettings(**config.world.model_dump()),
        workers=os.cpu_count() or 1,
    )
    write_json("manifests/world.json", manifest)


if __name__ == "__main__":
    with boundary("world"):
        main()
