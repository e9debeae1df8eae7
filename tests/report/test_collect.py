"""A number enters a table only if it was made with the weights, settings, images and classes that hold now."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tcl.datasets.benchmark import KEYS
from tcl.report.table import Cell

from .conftest import Checkout, build, edit


def row(checkout: Checkout, name: str) -> dict[str, Cell]:
    contents = checkout.collected()
    found = next(row for row in contents.main.rows if row.name.startswith(name) and row.kind in ("ours", "baseline"))
    return {key: found.cell(key) for key in (*KEYS, "average")}


def test_all_that_is_there_counts(checkout: Checkout) -> None:
    contents = checkout.collected()
    assert contents.flaws == []
    assert contents.metrics["tcl"] == {**dict.fromkeys(KEYS, 50.0), "average": 50.0}
    assert {row.kind for row in contents.main.rows} == {"baseline", "ours", "difference"}
    difference = contents.main.rows[-1]
    assert {difference.shown(key) for key in KEYS} == {"+40.0"}


def test_ours_beside_the_paper_s(tmp_path: Path) -> None:
    contents = build(tmp_path / "checkout", "profile=paper").collected()
    rows = {row.name: row for row in contents.main.rows}
    assert rows["TCL + PAMR – paper"].shown("voc") == "-5.0"
    assert [row.kind for row in contents.main.rows[:5]] == ["paper"] * 5
    official = next(row for row in contents.main.rows if "authors" in row.name)
    assert {official.shown(key) for key in KEYS} == {"missing"}


def missing(result: Path) -> None:
    result.unlink()


def damaged(result: Path) -> None:
    result.write_text(result.read_text()[:100])


def unscored(result: Path) -> None:
    edit(result, mIoU=None)


def other_weights(result: Path) -> None:
    (result.parents[2] / "weights" / "tcl.safetensors").write_text("trained again")


def no_weights(result: Path) -> None:
    (result.parents[2] / "weights" / "tcl.safetensors").unlink()


def other_settings(result: Path) -> None:
    settings = json.loads(result.read_text())["settings"]
    edit(result, settings={**settings, "kp_w": 0.7})


def other_images(result: Path) -> None:
    edit(result, images=6)


def other_classes(result: Path) -> None:
    scores = json.loads(result.read_text())["IoU"]
    edit(result, IoU=dict(list(scores.items())[:-1]))


@pytest.mark.parametrize(
    ("spoil", "note", "reason"),
    [
        (missing, "missing", "is not there"),
        (damaged, "damaged", "cannot be read as a result"),
        (unscored, "damaged", "cannot be read as a result"),
        (other_weights, "stale", "was made with weights"),
        (no_weights, "stale", "has none now"),
        (other_settings, "other settings", "kp_w was 0.7, is "),
        (other_images, "other data", "6 images and 21 classes, not 7 and 21"),
        (other_classes, "other data", "7 images and 20 classes, not 7 and 21"),
    ],
)
def test_what_does_not_count_is_a_word(
    checkout: Checkout, spoil: Callable[[Path], None], note: str, reason: str
) -> None:
    spoil(checkout.folder / "results" / "tcl" / "voc.json")
    ours = row(checkout, "TCL")
    assert (ours["voc"].value, ours["voc"].note) == (None, note)
    assert ours["average"].value is None
    contents = checkout.collected()
    assert any("results/tcl/voc.json" in flaw and reason in flaw for flaw in contents.flaws)
    assert "voc" not in contents.metrics["tcl"]
    assert "average" not in contents.metrics["tcl"]
    assert "voc" not in contents.results["tcl"]
    assert row(checkout, "MaskCLIP")["average"].value == pytest.approx(10)


def test_a_baseline_with_another_threshold_than_the_chosen_one(checkout: Checkout) -> None:
    checkout.score("maskclip/voc", "voc", 99.0, weights="clip", bg_thresh=0.2)
    checkout.score("maskclip/voc20", "voc20", 11.0, weights="clip", bg_thresh=0.2)
    scores = row(checkout, "MaskCLIP")
    assert scores["voc"].note == "other settings"
    assert scores["voc20"].value == 11.0  # it has no background


def test_provenance_names_the_weights_of_each_row(checkout: Checkout) -> None:
    found = {each.name: each for each in checkout.collected().provenance}
    assert found["TCL"].sha256 != found["MaskCLIP"].sha256
    assert found["MaskCLIP"].sha256 == found["GEM"].sha256
    assert (found["TCL"].images, found["TCL"].thresholds) == (8 * 7, "0.4")
    assert found["MaskCLIP"].thresholds == "0.3"


def scored_ablation(made: Checkout, name: str, seed: int, mIoU: float) -> None:
    run = f"ablations/{name}-{seed}"
    made.weigh(run)
    for key, benchmark in {**made.config.benchmarks, **made.config.monitors}.items():
        made.score(f"{run}/{benchmark.dataset}/{key}", key, mIoU, weights=run)


def test_seeds_become_a_mean_and_a_spread(tmp_path: Path) -> None:
    made = build(tmp_path / "checkout", "ablations=seeds")
    for name, start in (("tcl", 48.0), ("no_area", 38.0)):
        for seed in (0, 1, 2):
            scored_ablation(made, name, seed, start + 2 * seed)
    table = made.collected().ablations[0]
    base, *others = table.rows
    assert {base.shown(key) for key in table.columns} == {"50.0 ± 2.0"}
    without_area = next(each for each in others if "area" in each.name)
    assert without_area.shown("average") == "40.0 ± 2.0"
    untrained = next(each for each in others if "smoothness" in each.name)
    assert {untrained.shown(key) for key in table.columns[:-1]} == {"missing"}
    assert untrained.cell("average").value is None


def test_one_seed_that_does_not_count_takes_the_mean_with_it(tmp_path: Path) -> None:
    made = build(tmp_path / "checkout", "ablations=seeds")
    for seed in (0, 1, 2):
        scored_ablation(made, "no_area", seed, 40.0)
    (made.folder / "results/ablations/no_area-1/voc/voc.json").unlink()
    without_area = next(each for each in made.collected().ablations[0].rows if "area" in each.name)
    assert without_area.cell("voc").note == "missing"
    assert without_area.cell("average").value is None
    assert without_area.shown("context") == "40.0 ± 0.0"


def test_a_sweep_is_a_table_of_settings(tmp_path: Path) -> None:
    made = build(tmp_path / "checkout", "ablations.swept=[pamr]")
    table = made.collected().ablations[0]
    assert len(table.rows) > 2
    assert {row.shown("voc") for row in table.rows} == {"missing"}
