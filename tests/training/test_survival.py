"""Killed, asked to stop, out of disk, out of data, not finite: training goes on exactly, or says why it ends."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from tcl.errors import TCLError
from tcl.model.ranks import Ranks
from tcl.training.loop import BAD_STEPS
from tcl.training.resume import KEPT, ResumeDirectory, resume_directory

from .ranks import on_ranks
from .small import Small, SmallPlan


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What training gives on one and on two ranks when nothing happens."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return {count: on_ranks(count, Small(shards, folder / str(count)))[0] for count in (1, 2)}


def assert_same(found: Any, expected: Any) -> None:
    assert found["rows"] == expected["rows"]
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name


def directory(state: Path) -> ResumeDirectory:
    """The one resume directory below a folder."""
    (path,) = state.glob("train-*")
    return ResumeDirectory(path, {})


class Killed:
    """Ends one rank at one step."""

    def __init__(self, rank: int, step: int, how: signal.Signals = signal.SIGKILL) -> None:
        self.rank, self.step, self.how = rank, step, how

    def __call__(self, rank: int, step: int, batch: Any) -> Any:
        if (rank, step) == (self.rank, self.step):
            os.kill(os.getpid(), self.how)
        return batch


def test_killed_twice_and_the_same_to_the_bit(shards: Path, tmp_path: Path, uninterrupted: dict[int, Any]) -> None:
    for rank, step, saved in ((1, 7, 5), (0, 18, 15)):
        with pytest.raises((ProcessExitedException, ProcessRaisedException)):
            on_ranks(2, Small(shards, tmp_path, meddle=Killed(rank, step)))
        assert directory(tmp_path).checkpoints[0].name == f"state-{saved:08d}.pt"
    assert_same(on_ranks(2, Small(shards, tmp_path))[0], uninterrupted[2])
    assert len(directory(tmp_path).checkpoints) == KEPT
    snapshots = sorted(path.name for path in (directory(tmp_path).path / "snapshots").iterdir())
    assert snapshots == [f"step-{step:08d}.safetensors" for step in (8, 16, 19)]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_the_state(
    how: signal.Signals, shards: Path, tmp_path: Path, uninterrupted: dict[int, Any]
) -> None:
    with pytest.raises(TCLError, match=r"asked to stop after step 12 of 19; the state is saved in .*run the same"):
        on_ranks(1, Small(shards, tmp_path, meddle=Killed(0, 12, how)))
    os.kill(os.getpid(), signal.SIGTERM)  # a second one does not cut the end short
    assert directory(tmp_path).checkpoints[0].name == "state-00000013.pt"
    assert_same(on_ranks(1, Small(shards, tmp_path))[0], uninterrupted[1])


def test_one_rank_is_asked_and_all_stop(shards: Path, tmp_path: Path, uninterrupted: dict[int, Any]) -> None:
    with pytest.raises((ProcessExitedException, ProcessRaisedException)):
        on_ranks(2, Small(shards, tmp_path, meddle=Killed(1, 12, signal.SIGTERM)))
    assert directory(tmp_path).checkpoints[0].name == "state-00000013.pt"
    assert_same(on_ranks(2, Small(shards, tmp_path))[0], uninterrupted[2])


def test_another_number_of_ranks_goes_on_as_well(shards: Path, tmp_path: Path, uninterrupted: dict[int, Any]) -> None:
    with pytest.raises(TCLError, match="asked to stop"):
        on_ranks(1, Small(shards, tmp_path, meddle=Killed(0, 12, signal.SIGTERM)))
    found = on_ranks(2, Small(shards, tmp_path))[0]
    for row, expected in zip(found["rows"], uninterrupted[1]["rows"], strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_finished_training_is_only_read_again(shards: Path, tmp_path: Path, uninterrupted: dict[int, Any]) -> None:
    on_ranks(1, Small(shards, tmp_path))
    assert_same(on_ranks(1, Small(shards, tmp_path, meddle=Killed(0, 19)))[0], uninterrupted[1])


def test_a_damaged_state_gives_way_to_the_one_before(
    shards: Path, tmp_path: Path, uninterrupted: dict[int, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TCLError):
        on_ranks(1, Small(shards, tmp_path, meddle=Killed(0, 12, signal.SIGTERM)))
    newest = directory(tmp_path).checkpoints[0]
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert_same(on_ranks(1, Small(shards, tmp_path))[0], uninterrupted[1])
    told = capsys.readouterr().err
    assert f"{newest}: cannot be read" in told
    assert "goes on at step 10" in told


def test_damaged_states_alone_are_an_error(tmp_path: Path) -> None:
    with resume_directory(tmp_path, "train", {}, first=True) as resume:
        (resume.path / "state-00000001.pt").write_bytes(b"")
        with pytest.raises(TCLError, match="none of the saved states can be read"):
            resume.load()


def test_another_configuration_is_not_continued(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TCLError):
        on_ranks(1, Small(shards, tmp_path, meddle=Killed(0, 2, signal.SIGINT)))
    theirs = directory(tmp_path)
    other = Small(shards, tmp_path, plan=SmallPlan(lr=1e-3), meddle=Killed(0, 1, signal.SIGINT))
    with pytest.raises(TCLError, match="after step 1 of"):
        on_ranks(1, other)
    told = capsys.readouterr().err
    assert f"{theirs.path}: an unfinished training (state-00000003.pt) that is not continued" in told
    assert "plan.lr is 0.004 there and 0.001 here" in told
    (ours,) = set(tmp_path.glob("train-*")) - {theirs.path}
    shutil.copy(theirs.checkpoints[0], ours)
    with pytest.raises(
        TCLError, match=rf"holds training {theirs.path.name[6:]}, this is training {ours.name[6:]}: plan"
    ):
        on_ranks(1, other)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with resume_directory(tmp_path, "train", {}, first=True):
        with pytest.raises(TCLError, match="another process is at this very training"):
            with resume_directory(tmp_path, "train", {}, first=True):
                pass


def test_a_kill_while_saving_leaves_no_litter(tmp_path: Path) -> None:
    with resume_directory(tmp_path, "train", {}, first=True) as resume:
        (resume.path / ".state-00000005-x1y2.pt").write_bytes(b"half")
    with resume_directory(tmp_path, "train", {}, first=True) as resume:
        assert {path.name for path in resume.path.iterdir()} == {"lock", "subject.json"}


@pytest.fixture
def largest_file() -> Iterator[Any]:
    """Function: the operating system refuses to let files grow beyond so many bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_at_a_checkpoint(
    shards: Path, tmp_path: Path, uninterrupted: dict[int, Any], largest_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(rank: int, step: int, batch: Any) -> Any:
        if step in (9, 12):
            largest_file(20_000 if step == 9 else resource.RLIM_INFINITY)
        return batch

    assert_same(on_ranks(1, Small(shards, tmp_path, meddle=fill))[0], uninterrupted[1])
    told = capsys.readouterr().err
    assert "could not be saved" in told
    assert "the newest there: state-00000005.pt" in told
    assert [path.name for path in directory(tmp_path).checkpoints] == ["state-00000020.pt", "state-00000015.pt"]


def test_a_disk_that_is_full_when_weights_are_to_be_kept(
    shards: Path, tmp_path: Path, uninterrupted: dict[int, Any], largest_file: Any
) -> None:
    def fill(rank: int, step: int, batch: Any) -> Any:
        if step == 7:
            largest_file(1000)
        return batch

    with pytest.raises(OSError, match="File too large"):
        on_ranks(1, Small(shards, tmp_path, meddle=fill))
    largest_file(resource.RLIM_INFINITY)
    assert_same(on_ranks(1, Small(shards, tmp_path))[0], uninterrupted[1])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("lose", "told"),
    [(partial(os.truncate, length=100), r": ended at byte \d+ while in use\."), (os.remove, " is missing; .*")],
    ids=["cut off", "deleted"],
)
def test_a_shard_that_is_lost(
    lose: Callable[[Path], None], told: str, workers: int, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lose is os.remove:  # a shard that is open can still be read
        monkeypatch.setattr("tcl.pairs.shards.OPEN_SHARDS", 1)
    own = shutil.copytree(shards, tmp_path / "workplace")

    def meddle(rank: int, step: int, batch: Any) -> Any:
        if step == 4:
            lose(own / "data/world/00002.tar")
        return batch

    with pytest.raises(TCLError, match=rf"^[^\n]*00002\.tar{told}$"):
        on_ranks(1, Small(own, tmp_path, meddle=meddle, workers=workers))


ENDS_EARLY = """
from torch.utils.data import Dataset
from tcl.errors import TCLError
from tcl.training.loading import batches_from
class Batches(Dataset):
    def __getitem__(self, step):
        if step == 2:
            raise TCLError("lost")
try:
    list(batches_from(Batches(), range(9), workers=2, waited=print))
except TCLError as error:
    kept = error  # and with it all that was under way
"""


def test_loading_processes_do_not_outlive_an_error() -> None:
    subprocess.run([sys.executable, "-c", ENDS_EARLY], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_a_loading_process_that_dies(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(TCLError, match=r"step \d+: its data did not arrive .*TCL_WORKERS"):
        on_ranks(1, Small(shards, tmp_path, meddle=Killed(0, 4), workers=1))


def test_a_loading_process_that_hangs(shards: Path, tmp_path: Path) -> None:
    meddle = Killed(0, 4, signal.SIGSTOP)
    training = Small(shards, tmp_path, meddle=meddle, workers=1, timeout=3)
    with pytest.raises(ProcessExitedException, match="exit code 1"):
        start_processes(lambda rank: training(Ranks()), nprocs=1, start_method="fork")


def test_a_step_that_is_not_finite_changes_nothing(shards: Path, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def spoil(rank: int, step: int, batch: Any) -> Any:
        if step == 4:
            seen.append(batch["keys"])
            batch["images"][3, 0, 0, 0] = torch.inf
        return batch

    found = on_ranks(1, Small(shards, tmp_path, meddle=spoil))[0]
    assert [row["step"] for row in found["rows"]] == [step for step in range(20) if step != 4]
    assert [row["skipped"] for row in found["rows"]] == [0.0] * 4 + [1.0] * 15
    assert all(bool(torch.isfinite(weight).all()) for weight in found["weights"].values())
    record = (directory(tmp_path).path / "not_finite.jsonl").read_text()
    assert all(f'"{key}"' in record for key in seen[0])


def test_many_steps_that_are_not_finite_end_the_training(shards: Path, tmp_path: Path) -> None:
    def spoil(rank: int, step: int, batch: Any) -> Any:
        if step >= 6:
            batch["images"][0] = torch.nan
        return batch

    with pytest.raises(TCLError, match=rf"not finite in {BAD_STEPS} steps in a row, up to step 15.*not_finite\.jsonl"):
        on_ranks(1, Small(shards, tmp_path, meddle=spoil))
    assert len((directory(tmp_path).path / "not_finite.jsonl").read_text().splitlines()) == BAD_STEPS
    state = directory(tmp_path).checkpoints[0]
    parameters = torch.load(state, weights_only=True)["parameters"]
    assert all(bool(torch.isfinite(weight).all()) for weight in parameters.values())


def test_ranks_are_told_of_a_lost_one(shards: Path, tmp_path: Path) -> None:
    def work(ranks: Ranks) -> str:
        try:
            Small(shards, tmp_path, meddle=Killed(1, 4))(ranks)
        except TCLError as error:
            (tmp_path / "told").write_text(str(error))
            raise
        return ""

    with pytest.raises((ProcessExitedException, ProcessRaisedException)):
        on_ranks(2, work)
    assert "Another process of this job does not answer" in (tmp_path / "told").read_text()
