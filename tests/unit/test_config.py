"""conf/ composes into the committed params.yaml, and wrong values are answered with a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tcl.commands.config import compose, write_params
from tcl.config import check_config, load_config
from tcl.datasets.benchmark import KEYS
from tcl.errors import TCLError
from tcl.inference.settings import InferenceSettings
from tcl.model.tcl import Objective
from tcl.world.vocabulary import official

ROOT = Path(__file__).parents[2]


def test_params_are_the_composition_of_conf() -> None:
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == compose(ROOT / "conf", [])


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_profiles_are_valid_and_evaluate_the_eight(profile: str) -> None:
    config = check_config(compose(ROOT / "conf", [f"profile={profile}"]), source=profile)
    assert tuple(config.benchmarks) == KEYS
    assert {f"tcl-{key}" for key in KEYS} <= set(config.evaluations)


def test_the_paper_profile_holds_the_defaults_of_the_library() -> None:
    config = check_config(compose(ROOT / "conf", ["profile=paper"]), source="paper")
    assert InferenceSettings(**config.inference.model_dump()) == InferenceSettings()
    assert Objective(**config.train.objective.model_dump()) == Objective()


TOWERS = sorted(path.stem for path in (ROOT / "conf/clip").glob("*.yaml") if path.stem != "trained")


@pytest.mark.parametrize("tower", TOWERS)
def test_each_pretrained_clip_fits_its_weights(tower: str, tmp_path: Path) -> None:
    write_params(["profile=paper", f"clip={tower}"], conf=ROOT / "conf", params=tmp_path / "params.yaml")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    config = load_config(tmp_path / "params.yaml")
    assert config.clip.needs == f"conf/clip/{tower}.yaml"
    assert config.model.frozen_blocks == config.model.clip.vision_layers - 1
    assert config.inference.window % config.model.clip.patch_size == 0


def test_sizes_that_do_not_fit_the_weights_are_refused(tmp_path: Path) -> None:
    for override, message in (
        ("model=vit_l14", "ViT-B-16:laion2b_s34b_b88k: embed_dim is 768, must be 512; patch_size is 14, must be 16"),
        ("model.clip.quick_gelu=true", "quick_gelu is True, must be False"),
        ("clip.pretrained=ViT-B-16:laion", "open_clip has no 'ViT-B-16:laion'; of ViT-B-16 there are: openai"),
    ):
        with pytest.raises(TCLError, match=message):
            write_params(
                ["profile=paper", "clip=laion_b16", override], conf=ROOT / "conf", params=tmp_path / "params.yaml"
            )
    assert not (tmp_path / "params.yaml").exists()


def test_the_demo_prompts_the_classes_that_its_world_holds() -> None:
    config = check_config(compose(ROOT / "conf", []), source="demo")
    for key in ("voc", "context", "coco_stuff", "cityscapes", "ade20k"):
        assert set(config.benchmarks[key].classes or ()) - set(official(key)) == set()


def test_pamr_decides_the_threshold_unless_one_is_given() -> None:
    assert InferenceSettings().background_threshold == 0.4
    assert InferenceSettings(pamr=False).background_threshold == 0.5
    assert InferenceSettings(bg_thresh=0.7).background_threshold == 0.7


def test_all_problems_are_told_at_once() -> None:
    values = compose(ROOT / "conf", [])
    values["train"]["sed"] = 1
    values["evaluate"]["kp_w"] = 2.0
    values["clip"]["training"]["lr"] = "fast"
    with pytest.raises(TCLError) as caught:
        check_config(values, source="params.yaml")
    message = str(caught.value)
    assert "3 problem(s)" in message
    assert "train.sed: there is no such key; did you mean seed?" in message
    assert "evaluate.kp_w" in message
    assert "got 2.0" in message
    assert "clip.training.lr" in message


def test_an_override_with_a_typo_is_refused_by_name() -> None:
    with pytest.raises(TCLError, match="sed"):
        compose(ROOT / "conf", ["train.sed=1"])


def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "table.md").write_text("a row of the table\n" * 100_000)
    command = (
        f'"{sys.executable}" -m tcl.commands.main show --report "{tmp_path}" | head -n 1; echo "${{PIPESTATUS[0]}}"'
    )
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "a row of the table\n141\n"
    assert result.stderr == ""
