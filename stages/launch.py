"""python -m stages.launch STAGE ARGUMENTS: run a stage on every GPU of this machine, or on processes of its CPU.

TCL_PROCESSES overrides their number. On several machines TCL_TORCHRUN holds torchrun's options for them, and the same
command runs on each: by hand, or through the command in TCL_ON_NODES, which runs another one once on every machine.
docs/training.md shows both.
"""

import logging
import os
import runpy
import shlex
import signal
import sys

from tcl.commands.boundary import boundary, stopped
from tcl.config import load_config
from tcl.errors import TCLError

CPU_PROCESSES = {
    **{"train": 2, "clip": 2},
    **dict.fromkeys(("monitor", "evaluate", "score", "baselines", "thresholds"), 1),
}


def process_count(stage: str) -> int:
    """One process for each GPU, or the stage's own number on a CPU."""
    if chosen := os.environ.get("TCL_PROCESSES"):
        if not chosen.isdigit() or int(chosen) == 0:
            raise TCLError(f"TCL_PROCESSES must be a positive number of processes, got {chosen!r}.")
        return int(chosen)
    import torch

    return torch.cuda.device_count() or CPU_PROCESSES[stage]


def main() -> None:
    """Run the stage in this process if it is to be alone, else under torchrun."""
    stage, *arguments = sys.argv[1:]
    _end_with_dvc()
    if on_nodes := os.environ.pop("TCL_ON_NODES", None):
        command = [*shlex.split(on_nodes), sys.executable, "-m", "stages.launch", *sys.argv[1:]]
        os.execvp(command[0], command)
    with boundary(" ".join(sys.argv[1:])):
        load_config()  # said once here, not by every rank
        count = process_count(stage)
    nodes = shlex.split(os.path.expandvars(os.environ.get("TCL_TORCHRUN", "")))  # a node's number may stand in it
    if count == 1 and not nodes:
        sys.argv = [stage, *arguments]
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=False)
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", ",".join(_passed_on()))
    place = [*nodes, f"--rdzv-id={'-'.join(sys.argv[1:])}"] if nodes else ["--standalone"]  # never meets another stage
    launch(stage, [*place, f"--nproc-per-node={count}", "-m", f"stages.{stage}", *arguments])


def _passed_on() -> list[str]:
    """The signals that torchrun hands to its ranks; under nohup SIGHUP stays ignored."""
    names = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGHUP"]
    return [name for name in names if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN]


def _end_with_dvc() -> None:
    """A DVC that is killed leaves its stage behind, which would then hold files that the next one needs."""
    if "DVC_STAGE" in os.environ:
        from tcl.processes import die_with_parent

        die_with_parent(signal.SIGTERM)


def launch(stage: str, arguments: list[str]) -> None:
    """Run torchrun; what its ranks have said for themselves is not said again."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(arguments)
    except SignalException as error:
        stopped(stage, error.sigval)
    except (DistError, RendezvousError) as error:
        sys.exit(
            f"{stage}: the machine on which the processes of this job meet does not answer ({error}). TCL_TORCHRUN is "
            f"{os.environ.get('TCL_TORCHRUN', 'not set')!r}. Run the same command again to carry on."
        )
    except ChildFailedError as error:
        for rank, failure in sorted(error.failures.items()):
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
                name = signal.Signals(-failure.exitcode).name
                print(
                    f"{stage}: rank {rank} was ended by {name}, perhaps for lack of memory, and so the others were "
                    "too. Run the same command again to carry on.",
                    file=sys.stderr,
                )
        sys.exit(1)


if __name__ == "__main__":
    main()
