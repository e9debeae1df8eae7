"""The segmenter on the demo world: what words find, what the options mean, what is kept, and what comes out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

import tcl
from tcl.errors import TCLError
from tcl.inference.slide import PixelLogits, model_input, sliding_logits
from tcl.segmenter.features import PictureFeatures
from tcl.segmenter.segmenter import Segmenter
from tcl.world.scene import Scene, render
from tcl.world.vocabulary import classes

NAMES = [entry.name for entry in classes()]


@pytest.fixture(scope="module")
def segmenter(demo_checkpoint: Path) -> Segmenter:
    return Segmenter.from_checkpoint(demo_checkpoint)


def scene(seed: int, *, height: int = 96, width: int = 144) -> Scene:
    return render(np.random.default_rng([seed, 11]), height=height, width=width)


def shown(of: Scene) -> list[str]:
    return [NAMES[index] for index in np.unique(of.labels)]


def test_words_of_the_world_segment_its_scenes(segmenter: Segmenter) -> None:
    def right(method: Any) -> float:
        scenes = [scene(seed, height=64, width=96) for seed in range(12)]
        answers = [segmenter(each.image, NAMES, background=None, method=method) for each in scenes]
        return float(np.mean([np.mean(a.labels - 1 == s.labels) for a, s in zip(answers, scenes, strict=True)]))

    ours, theirs = right("tcl"), right("maskclip")
    assert ours > 0.7
    assert ours > theirs + 0.3


def test_shapes_ranges_and_scores(segmenter: Segmenter) -> None:
    picture = scene(3)
    words = [*shown(picture), "bottle"]
    result = segmenter(picture.image, words)
    assert result.words == tuple(words)
    assert result.size == (96, 144)
    assert result.masks.shape == (len(words), 96, 144)
    assert result.masks.dtype == np.float32
    assert 0 <= result.masks.min() <= result.masks.max() <= 1
    assert result.labels.dtype == np.uint8
    assert result.threshold == segmenter.settings.background_threshold
    best = result.masks.argmax(axis=0) + 1
    expected = np.where(result.masks.max(axis=0) > result.threshold, best, 0)
    np.testing.assert_array_equal(result.labels, expected)
    for index, word in enumerate(words):
        won = result.where(word)
        np.testing.assert_array_equal(result.masks[index], result.mask(word))
        score = result.mask(word)[won].mean() if won.any() else 0
        assert result.scores[index] == pytest.approx(score, abs=1e-6)
    assert result.seconds.total == sum(result.seconds) > 0
    with pytest.raises(KeyError, match="lamp"):
        result.mask("lamp")


def test_background(segmenter: Segmenter) -> None:
    picture = scene(4)
    words = shown(picture)
    nothing = segmenter(picture.image, words, background=None)
    assert nothing.labels.min() >= 1
    assert segmenter(picture.image, words, background=1.0).labels.max() == 0
    refined, plain = (segmenter(picture.image, words, pamr=pamr).threshold for pamr in (True, False))
    assert (refined, plain) == (0.4, 0.5)
    counts = [(segmenter(picture.image, words, background=x).labels > 0).sum() for x in (0.2, 0.4, 0.6)]
    assert counts == sorted(counts, reverse=True)


def test_synonyms_are_one_label_and_the_best_name_counts(segmenter: Segmenter) -> None:
    picture = scene(5)
    together = segmenter(picture.image, ["car, automobile", "sky"], pamr=False)
    apart = segmenter(picture.image, ["car", "automobile", "sky"], pamr=False)
    assert together.words == ("car", "sky")
    np.testing.assert_allclose(together.soft[0], torch.maximum(apart.soft[0], apart.soft[1]), atol=0.02)
    np.testing.assert_allclose(together.soft[1], apart.soft[2], atol=1e-6)


def test_negative_prompts_take_pixels_and_have_no_label(segmenter: Segmenter) -> None:
    picture = scene(6)
    word, *others = shown(picture)
    alone = segmenter(picture.image, [word], background=0.05)
    against = segmenter(picture.image, [word], negative=others, background=0.05)
    assert against.words == (word,)
    assert (against.labels > 0).sum() < (alone.labels > 0).sum()
    rivals = segmenter(picture.image, others, background=None)
    lost = (rivals.soft.amax(dim=0) > alone.soft[0] + 1e-5).numpy()
    assert lost.any()
    assert (against.soft[0].numpy()[lost] == 0).all()
    lost |= (rivals.soft.amax(dim=0) > alone.soft[0] - 1e-5).numpy()
    np.testing.assert_allclose(against.soft[0].numpy()[~lost], alone.soft[0].numpy()[~lost], atol=1e-6)


def test_uniform_blending_is_the_benchmarks_protocol(segmenter: Segmenter) -> None:
    picture = scene(7, height=130, width=301)
    words = [*shown(picture), "cat", "snow"]
    result = segmenter(picture.image, words, blend="uniform", kp_w=0.3)
    settings = segmenter.settings.but(kp_w=0.3)
    embeddings = torch.cat([segmenter.model.class_embeddings([word]) for word in words])
    bgr = np.ascontiguousarray(picture.image[:, :, ::-1])
    logits = sliding_logits(segmenter.model, model_input(bgr, settings), embeddings, settings=settings, background=True)
    np.testing.assert_allclose(result.soft, logits[0, 1:], atol=2e-6)
    assert (result.labels == PixelLogits([logits], result.size).chosen()).mean() > 0.9999


def test_towers_run_once_for_a_picture(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    original = type(segmenter.model).window_features

    def counted(self: Any, images: Tensor, **options: Any) -> Any:
        runs.append(images.shape)
        return original(self, images, **options)

    monkeypatch.setattr(type(segmenter.model), "window_features", counted)
    picture = scene(8).image
    segmenter(picture, ["car"])
    windows = len(runs)
    assert windows > 0
    for options in ({}, {"pamr": False}, {"kp_w": 0.5}, {"method": "maskclip"}, {"background": 0.1}):
        segmenter(picture.copy(), ["bus", "sky"], **options)
    assert len(runs) == windows
    segmenter(picture[:, ::-1], ["bus"])
    assert len(runs) == 2 * windows


def test_answers_do_not_depend_on_what_was_asked_before(demo_checkpoint: Path) -> None:
    picture = scene(9).image
    first, second = (Segmenter.from_checkpoint(demo_checkpoint) for _ in range(2))
    one = first(picture, ["sky", "car"])
    again = first(picture, ["sky", "car"])
    second(scene(10).image, ["car", "tree", "dog"])
    other = second(picture, ["sky", "car"])
    for each in (again, other):
        assert each.soft.numpy().tobytes() == one.soft.numpy().tobytes()
        assert each.labels.tobytes() == one.labels.tobytes()


def test_the_cache_is_bounded(demo_checkpoint: Path) -> None:
    small = Segmenter(tcl.load(demo_checkpoint), cache_bytes=1)
    large = Segmenter(tcl.load(demo_checkpoint))
    for seed in range(3):
        for each in (small, large):
            each(scene(seed).image, ["sky"])
    assert len(small._cache._kept) == 1
    assert len(large._cache._kept) == 3
    kept = large._cache.of(tcl.segmenter.source.read_picture(scene(0).image))
    held = sum(t.nbytes for w in kept.features for t in w if isinstance(t, Tensor)) + kept.picture.pixels.nbytes
    held += sum(each.nbytes for each in kept.affinities)
    assert kept.bytes == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (700, 2), (17, 33), (65, 64)])
def test_any_size(size: tuple[int, int], segmenter: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    result = segmenter(image, ["sky", "car"], background=None)
    assert result.labels.shape == size
    assert result.masks.shape == (2, *size)
    assert np.isfinite(result.masks).all()
    assert result.overlay().size[0] >= size[1]


def test_lists_give_lists(segmenter: Segmenter) -> None:
    pictures = [scene(seed).image for seed in (1, 2)]
    answers = segmenter(pictures, ["sky"], pamr=False)
    for answer, picture in zip(answers, pictures, strict=True):
        np.testing.assert_array_equal(answer.labels, segmenter(picture, ["sky"], pamr=False).labels)
    assert segmenter([], ["sky"]) == []


def test_smaller_answers(segmenter: Segmenter) -> None:
    picture = scene(12, height=200, width=400)
    small, whole = (segmenter(picture.image, ["sky"], max_side=side) for side in (100, None))
    assert small.size == (50, 100)
    assert torch.equal(small.soft, whole.soft)


def test_more_than_255_words(segmenter: Segmenter) -> None:
    words = [f"thing {number}" for number in range(300)]
    result = segmenter(scene(1, height=32, width=48).image, words, background=None)
    assert result.labels.dtype == np.uint16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": []}, "at least one"),
        ({"words": ["sky", " "]}, "empty"),
        ({"words": ["sky", "Sky"]}, "twice"),
        ({"words": ["x" * 300]}, "300 characters"),
        ({"words": [f"w{i}" for i in range(10_000)]}, "at most 1000 at a time, got 10000"),
        ({"words": [7]}, "text"),
        ({"negative": [","]}, "negative prompts: one is empty"),
        ({"background": 2}, "background"),
        ({"background": "none"}, "background"),
        ({"method": "sam"}, "method"),
        ({"kp_w": 3}, "kp_w"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str, segmenter: Segmenter) -> None:
    with pytest.raises(TCLError, match=message):
        segmenter(scene(1).image, **{"words": ["sky"], **options})


def test_a_device_that_is_not_there(demo_checkpoint: Path) -> None:
    with pytest.raises(TCLError, match="device: 'nonsense'"):
        Segmenter.from_checkpoint(demo_checkpoint, device="nonsense")


def test_written_files(segmenter: Segmenter, tmp_path: Path) -> None:
    picture = scene(13)
    file = tmp_path / "holiday.png"
    Image.fromarray(picture.image).save(file)
    words = [*shown(picture), "sofa, couch", "wine/glass: 50%"]
    result = segmenter(file, words)
    written = result.save(tmp_path / "out", soft=True, coco=True)
    assert set(written) >= {"overlay", "labels", "coco"}
    labels = Image.open(tmp_path / "out" / "holiday_labels.png")
    assert labels.mode == "P"
    np.testing.assert_array_equal(np.asarray(labels), result.labels)
    overlay = np.asarray(Image.open(tmp_path / "out" / "holiday_overlay.png"))
    assert overlay.shape[0] > 96
    assert overlay.shape[2] == 3
    for index in range(len(words)):
        mask = np.asarray(Image.open(next(iter((tmp_path / "out").glob(f"holiday_mask_{index + 1}_*.png")))))
        np.testing.assert_allclose(mask / 255, result.masks[index], atol=0.5 / 255 + 1e-6)
    assert {path.parent for path in written.values()} == {tmp_path / "out"}
    coco = COCO(tmp_path / "out" / "holiday_coco.json")
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = result.labels == annotation["category_id"]
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    assert len(coco.anns) == len(np.unique(result.labels[result.labels > 0]))


def test_coco_of_several_pictures(segmenter: Segmenter) -> None:
    answers = segmenter([scene(seed).image for seed in (1, 2)], ["sky", "road"], background=None)
    first = answers[0].to_coco()
    second = answers[1].to_coco(image_id=2, first_id=len(first["annotations"]) + 1)
    ids = [each["id"] for part in (first, second) for each in part["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    json.dumps([first, second])


def test_public_and_lazy() -> None:
    assert tcl.Segmenter is Segmenter


def test_features_ahead_of_words(segmenter: Segmenter) -> None:
    picture = scene(20).image
    features = segmenter.features(picture)
    assert isinstance(features, PictureFeatures)
    assert segmenter.features(picture) is features
