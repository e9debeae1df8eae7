"""TCL built and run by mmsegmentation: from its registry, by its runner, on the demo world in VOC's layout."""

from pathlib import Path

import numpy as np
import pytest

from tcl.datasets.benchmark import load as load_benchmark
from tcl.errors import TCLError
from tcl.inference.evaluate import evaluate
from tcl.inference.load import load
from tcl.world.layout import LAYOUTS
from tcl.world.scene import render

SCENES = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a VOC of a few scenes."""
    root = tmp_path_factory.mktemp("world")
    layout = LAYOUTS["voc"]
    folder = root / layout.folder
    rng = np.random.default_rng(0)
    scenes = [render(rng, height=64, width=90) for _ in range(SCENES)]
    records = [layout.write(folder, "val", number, scene) for number, scene in enumerate(scenes)]
    if layout.finish:
        layout.finish(folder, records)
    return root


def test_the_runners_score_is_our_own(root: Path, demo_checkpoint: Path, tmp_path: Path) -> None:
    from mmengine.config import Config
    from mmengine.runner import Runner

    benchmark = load_benchmark("voc")
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (2048, 64), "keep_ratio": True},
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]
    dataset = {
        "type": "PascalVOCDataset",
        "data_root": str(root),
        "ann_file": benchmark.split,
        "data_prefix": {"img_path": benchmark.images, "seg_map_path": benchmark.labels},
        "pipeline": pipeline,
        "test_mode": True,
    }
    config = Config(
        {
            "default_scope": "mmseg",
            "custom_imports": {"imports": ["tcl.segmenter.mmsegmentor"], "allow_failed_imports": False},
            "model": {
                "type": "TCLSegmentor",
                "checkpoint": str(demo_checkpoint),
                "classes": "PascalVOCDataset",
                "background": True,
                "pamr": False,
            },
            "test_dataloader": {
                "batch_size": 1,
                "num_workers": 0,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "dataset": dataset,
            },
            "test_cfg": {"type": "TestLoop"},
            "test_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
            "work_dir": str(tmp_path),
            "log_level": "ERROR",
        }
    )
    config.dump(tmp_path / "config.py")
    scored = Runner.from_cfg(Config.fromfile(tmp_path / "config.py")).test()
    model = load(demo_checkpoint)
    ours = evaluate(model, benchmark, root, settings=model.settings.but(pamr=False)).result
    assert scored["mIoU"] == pytest.approx(ours["mIoU"], abs=0.02)
    assert scored["aAcc"] == pytest.approx(ours["aAcc"], abs=0.02)


def test_built_from_the_registry(demo_checkpoint: Path) -> None:
    import torch
    from mmseg.registry import MODELS

    import tcl.segmenter.mmsegmentor  # noqa: F401 (registers the model)

    model = MODELS.build({"type": "TCLSegmentor", "checkpoint": str(demo_checkpoint), "classes": ["sky", "car"]})
    (sample,) = model.predict(torch.zeros(1, 3, 70, 64))
    assert sample.seg_logits.data.shape == (2, 70, 64)
    assert sample.pred_sem_seg.data.shape == (1, 70, 64)
    assert model.extract_feat(torch.zeros(1, 3, 64, 64)).shape == (1, 64, 32, 32)
    with pytest.raises(NotImplementedError, match="image-text pairs"):
        model.loss(torch.zeros(1, 3, 64, 64), [])
    for classes, message in (("NoDataset", "no data set"), (["sky"], "at least two")):
        with pytest.raises(TCLError, match=message):
            MODELS.build({"type": "TCLSegmentor", "checkpoint": str(demo_checkpoint), "classes": classes})
