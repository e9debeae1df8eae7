"""python -m stages.launch STAGE ARGUMENTS: run a stage on every GPU of this machine, or on processes of its CPU.

TCL_PROCESSES overrides their number. On several machines start the stage itself with torchrun on each.
"""

import os
import runpy
import sys

CPU_PROCESSES = {"train": 2, "clip": 2, "evaluate": 1, "baselines": 1}


def process_count(stage: str) -> int:
    """One process for each GPU, or the stage's own number on a CPU."""
    if chosen := os.environ.get("TCL_PROCESSES"):
        return int(chosen)
    import torch

    return torch.cuda.device_count() or CPU_PROCESSES[stage]


def main() -> None:
    """Run the stage in this process if it is to be alone, else under torchrun."""
    stage, *arguments = sys.argv[1:]
    count = process_count(stage)
    if count == 1:
        sys.argv = [stage, *arguments]
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=False)
        return
    from torch.distributed.run import main as torchrun

    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    torchrun(["--standalone", f"--nproc-per-node={count}", "-m", f"stages.{stage}", *arguments])


if __name__ == "__main__":
    main()
