"""The process that runs img2dataset: `python -m tcl.pairs.worker arguments.json`, started by `tcl.pairs.fetch`.

img2dataset starts worker processes, and those import this module again, because it is the main module of their parent.
So what stands at its end is done by all of them: each holds a shared lock beside the arguments, by which the next
download knows that none is left, and ends the whole group as soon as its parent is gone. Without that, a download that
is killed leaves workers behind that go on writing shards. Spark's and Ray's workers end with the driver by themselves.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

WORKERS_LOCK = "workers.lock"
_POLL_SECONDS = 0.5
_SPARK_SETTINGS = {"PYSPARK_SUBMIT_ARGS", "SPARK_CONF_DIR", "SPARK_HOME"}


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _hold_lock(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # stays open as long as the process lives
    fcntl.flock(file, fcntl.LOCK_SH)


def _run(arguments: dict[str, Any]) -> None:
    """Download with img2dataset, on the cluster that Spark's or Ray's own settings name, else on this machine."""
    from tcl.pairs.bounded import BoundedDownloader

    img2dataset = import_module("img2dataset.main")  # the package has a function of that name too
    img2dataset.Downloader = BoundedDownloader  # type: ignore[attr-defined]
    if arguments["distributor"] == "pyspark" and _SPARK_SETTINGS & os.environ.keys():
        from pyspark.sql import SparkSession

        SparkSession.builder.appName("tcl download").getOrCreate()  # img2dataset's own knows no cluster
    img2dataset.download(**arguments)


if __name__ in ("__main__", "__mp_main__"):
    path = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    _hold_lock(path.parent / WORKERS_LOCK)

if __name__ == "__main__":
    _run(json.loads(path.read_text(encoding="utf-8")))
