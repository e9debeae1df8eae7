"""The exported graphs against the model: sizes, words and settings that the example of the trace did not have."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tcl.errors import TCLError
from tcl.export import write
from tcl.export.write import export, write_words
from tcl.inference.load import load
from tcl.inference.masks import TCLSegmenter
from tcl.model.build import TCLSizes, blank
from tcl.model.clip import ClipSizes

SIZES = [(64, 64), (57, 131), (200, 90)]


@pytest.fixture
def model(demo_checkpoint: Path) -> TCLSegmenter:
    """The demo's model, with a share of CLIP's own map so that all of the graph counts."""
    model = load(demo_checkpoint)
    model.settings = model.settings.but(kp_w=0.3)
    return model


def check_against(model: TCLSegmenter, run: write.Graph) -> None:
    words = model.class_embeddings(["sky", "car", "a rusted van", "dog"])
    for batch, (height, width), count in [(1, SIZES[1], 4), (3, SIZES[2], 1), (1, (9, 500), 2)]:
        images = torch.randn(batch, 3, height, width)
        expected = model.soft_masks(images, words[:count], pamr=False, kp_w=0.3)
        torch.testing.assert_close(run(images, words[:count]), expected, atol=1e-4, rtol=0)


def test_torch_export(model: TCLSegmenter, tmp_path: Path) -> None:
    path = tmp_path / "tcl.pt2"
    checks = export(model, path, form="torch.export", sizes=SIZES)
    assert [check[:2] for check in checks] == SIZES
    assert max(check.difference for check in checks) <= 1e-4
    extra = {"tcl.json": ""}
    graph = torch.export.load(path, extra_files=extra).module()
    check_against(model, graph)
    assert json.loads(extra["tcl.json"])["background_threshold"] == 0.5


def test_onnx(model: TCLSegmenter, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install -e '.[export]'")
    path = tmp_path / "tcl.onnx"
    checks = export(model, path, form="onnx")
    assert len(checks) == 3
    assert max(check.difference for check in checks) <= 1e-4
    session = onnxruntime.InferenceSession(str(path))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["short_side"]) == 64
    check_against(
        model,
        lambda images, words: torch.from_numpy(
            session.run(["masks"], {"images": images.numpy(), "words": words.numpy()})[0]
        ),
    )


@pytest.mark.slow
def test_a_graph_that_differs_is_not_kept(model: TCLSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = write._opened

    def off(path: Path, form: write.Format) -> write.Graph:
        graph = opened(path, form)
        return lambda images, words: graph(images, words) + 2e-4

    monkeypatch.setattr(write, "_opened", off)
    with pytest.raises(TCLError, match=r"not written.*64 x 64"):
        export(model, tmp_path / "tcl.pt2", form="torch.export", sizes=[(64, 64)])
    assert list(tmp_path.iterdir()) == []


def test_file_names(model: TCLSegmenter, tmp_path: Path) -> None:
    with pytest.raises(TCLError, match=r"must end in \.onnx"):
        export(model, tmp_path / "tcl.pb", form="onnx")


def test_words(model: TCLSegmenter, tmp_path: Path) -> None:
    write_words(model, ["sky", "car"], tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as file:
        assert file["names"].tolist() == ["sky", "car"]
        np.testing.assert_array_equal(file["embeddings"], model.class_embeddings(["sky", "car"]).numpy())


@pytest.mark.slow
def test_onnx_at_the_papers_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install -e '.[export]'")
    torch.manual_seed(0)
    model = blank(TCLSizes(ClipSizes()), TCLSegmenter).eval()
    for name, parameter in model.grounder.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.3)
    checks = export(model, tmp_path / "tcl.onnx", form="onnx", sizes=[(224, 224), (448, 448), (350, 500)])
    assert max(check.difference for check in checks) <= 1e-4
