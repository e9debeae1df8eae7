"""`tcl segment` as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcl.commands import main
from tcl.commands.segment import find_pictures, stems
from tcl.errors import TCLError
from tcl.world.scene import render


@pytest.fixture
def folder(tmp_path: Path, demo_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with weights and, in trip/, three pictures and a note."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(demo_checkpoint.parent)
    (tmp_path / "trip").mkdir()
    for number in range(3):
        scene = render(np.random.default_rng(number), height=64, width=80)
        Image.fromarray(scene.image).save(tmp_path / "trip" / f"day_{number}.png")
    (tmp_path / "trip" / "notes.txt").write_text("nothing to see")
    return tmp_path


def tcl(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tcl", *arguments])
    main.main()


def test_one_picture(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tcl(monkeypatch, "segment", "trip/day_0.png", "person", "wall, brick wall", "--out", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == ["day_0_labels.png", "day_0_overlay.png"]
    assert capsys.readouterr().out.startswith("trip/day_0.png: ")


def test_a_folder_with_everything_as_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--soft", "--coco", "--json", "--background", "none", "--no-pamr", "--not", "cat", "--kp-w", "0.1"]
    tcl(monkeypatch, "segment", "trip", "person", "wall", *options)
    answer = json.loads(capsys.readouterr().out)
    assert [each["picture"] for each in answer["pictures"]] == [f"trip/day_{i}.png" for i in range(3)]
    assert answer["failed"] == []
    for each in answer["pictures"]:
        assert [word["word"] for word in each["words"]] == ["person", "wall"]
        assert set(each["files"]) == {"overlay", "labels", "coco", "mask_1_person", "mask_2_wall"}
        assert all(Path(file).is_file() for file in each["files"].values())
        assert set(each["seconds"]) == {"picture", "words", "masks"}


def test_a_broken_picture_among_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "trip" / "day_1.png").write_bytes(b"<html>")
    with pytest.raises(SystemExit, match=r"1 of 3 failed:\s+day_1\.png: not a picture"):
        tcl(monkeypatch, "segment", "trip/*.png", "person")
    assert len(list(Path("masks").glob("*_overlay.png"))) == 2


def test_what_a_user_gets_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in [
        (["nowhere.jpg", "dog"], "no such file, folder or match"),
        (["weights", "dog"], "no pictures in this folder"),
        (["trip/day_0.png", "trip/day_1.png", "dog"], "quotes"),
        (["trip/day_0.png", "dog", "dog"], "twice"),
        (["trip/day_0.png", "dog", "--checkpoint", "tlc"], "did you mean tcl"),
        (["trip/day_0.png", "dog", "--background", "7"], "background"),
        (["trip/day_0.png", "dog", "--checkpoint", "trip/day_0.png"], "checkpoint"),
    ]:
        with pytest.raises(SystemExit, match=message):
            tcl(monkeypatch, "segment", *arguments)


def test_names_of_files(tmp_path: Path) -> None:
    assert stems(["a/x.jpg", "a/y.png"]) == ["x", "y"]
    assert stems(["a/x.jpg", "b/x.jpg", "b/y.jpg"]) == ["a_x.jpg", "b_x.jpg", "y"]
    assert stems(["http://host/photo.jpg?size=2"]) == ["photo"]
    with pytest.raises(TCLError, match="several pictures"):
        stems(["a/b/x.jpg", "c/b/x.jpg"])
    assert find_pictures("http://host/photo.jpg") == ["http://host/photo.jpg"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['tcl', 'segment', '--help']\n"
        "from tcl.commands.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'gradio', 'dvc', 'mlflow', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
