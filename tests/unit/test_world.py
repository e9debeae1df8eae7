"""The demo world: what it shows, what it says of it, and what it writes."""

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tcl.datasets.benchmark import DATASETS, load
from tcl.datasets.labels import read_labels
from tcl.datasets.prepare import prepare
from tcl.errors import TCLError
from tcl.pairs.server import serve
from tcl.world import build as world
from tcl.world import shapes, textures
from tcl.world.build import MARKER, WorldSettings, build
from tcl.world.captions import caption, visible
from tcl.world.layout import LAYOUTS, raw_values
from tcl.world.scene import Scene, render
from tcl.world.site import NOT_AN_IMAGE, address
from tcl.world.vocabulary import BENCHMARKS, FILE, Texture, classes, index, official
from tcl.world.vocabulary import load as load_vocabulary

SMALL = WorldSettings(seed=3, size=32, pairs=12, dead_links=2, broken_images=1, val_scenes=3, train_scenes=2)


def scenes(count: int, *, seed: int = 0) -> Iterator[tuple[np.random.Generator, Scene]]:
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield rng, render(rng, height=64, width=64)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    build(site=root / "site", benchmarks=root, settings=SMALL)
    return root


def test_vocabulary_has_20_things_and_12_stuff_with_all_they_need() -> None:
    kinds = [entry.kind for entry in classes()]
    assert (kinds.count("thing"), kinds.count("stuff")) == (20, 12)
    assert {entry.name for entry in classes() if entry.kind == "thing"} == set(shapes.shapes())
    assert {entry.texture.kind for entry in classes()} == set(textures.KINDS)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_official_names_exist_and_are_spoken(benchmark: str) -> None:
    names = official(benchmark)
    assert set(names) <= set(load(benchmark).classes)
    for name, label in names.items():
        assert name in classes()[label].spoken


def test_benchmarks_show_as_many_classes_as_they_share_with_the_world() -> None:
    # VOC has the 20 things, Context all but sand, COCO-Stuff everything.
    assert {key: len(official(key)) for key in BENCHMARKS} == {
        "voc": 20,
        "context": 31,
        "coco_stuff": 32,
        "cityscapes": 11,
        "ade20k": 24,
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("edge: peaks", "edges: peaks", r"mountain has the unknown key\(s\) \['edges'\]"),
        ("near: [water]", "near: [lake]", r"boat\.near must name stuff of this file; got \['lake'\]"),
        ("cityscapes: train}", "citscapes: train}", r"train\.names must use the keys .* got \['citscapes'\]"),
    ],
)
def test_a_malformed_vocabulary_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "vocabulary.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(TCLError, match=message):
        load_vocabulary(path)


@pytest.mark.parametrize("kind", sorted(textures.KINDS))
@pytest.mark.parametrize("size", [(1, 1), (7, 20), (64, 64)])
def test_every_texture_is_a_blend(kind: str, size: tuple[int, int]) -> None:
    texture = Texture(kind, 0.1, 30)
    blend = textures.blend(np.random.default_rng(0), texture, height=size[0], width=size[1], side=64)
    assert blend.shape == size
    assert blend.dtype == np.float32
    assert 0 <= blend.min() <= blend.max() <= 1


def test_a_scene_is_a_function_of_the_generator() -> None:
    first, again = (render(np.random.default_rng(7), height=48, width=80) for _ in range(2))
    assert first.image.shape == (48, 80, 3)
    assert first.labels.shape == (48, 80)
    assert first.image.dtype == first.labels.dtype == np.uint8
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, render(np.random.default_rng(8), height=48, width=80).image)


def test_scenes_show_every_class_and_one_to_three_things_and_stuff() -> None:
    seen = set()
    for _, scene in scenes(300):
        labels = set(np.unique(scene.labels).tolist())
        things = {label for label in labels if classes()[label].kind == "thing"}
        assert len(things) <= 3
        assert 1 <= len(labels - things) <= 3
        seen |= labels
    assert seen == set(range(32))


def test_street_scenes_show_only_what_cityscapes_labels() -> None:
    allowed = set(official("cityscapes").values())
    for number in range(100):
        scene = render(np.random.default_rng(number), height=64, width=96, setting="street")
        assert set(np.unique(scene.labels).tolist()) <= allowed


@pytest.mark.parametrize(("height", "setting"), [(15, "any"), (64, "moon")])
def test_a_scene_that_cannot_be_drawn_is_refused(height: int, setting: str) -> None:
    with pytest.raises(TCLError, match=f"got {height} x 64 and '{setting}'"):
        render(np.random.default_rng(0), height=height, width=64, setting=setting)  # type: ignore[arg-type]


def test_boats_are_seen_on_water_more_often_than_cats() -> None:
    boat, cat, water = index("boat"), index("cat"), index("water")
    with_water = {boat: 0, cat: 0}
    for _, scene in scenes(2000):
        for label in with_water:
            with_water[label] += bool((scene.labels == label).any() and (scene.labels == water).any())
    assert with_water[boat] > 2 * with_water[cat] > 0


def test_captions_name_what_is_visible_at_the_stated_rates() -> None:
    spoken = [re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, entry.spoken))})(?![\w-])") for entry in classes()]
    shown, named = {"thing": 0, "stuff": 0}, {"thing": 0, "stuff": 0}
    for rng, scene in scenes(1000):
        text = caption(rng, scene)
        assert re.fullmatch(r"[a-z, -]+", text)
        mentioned = {label for label in visible(scene.labels) if spoken[label].search(text)}
        assert mentioned
        for label in visible(scene.labels):
            shown[classes()[label].kind] += 1
            named[classes()[label].kind] += label in mentioned
    assert named["thing"] / shown["thing"] == pytest.approx(0.9, abs=0.03)
    assert named["stuff"] / shown["stuff"] == pytest.approx(0.6, abs=0.04)
    assert sum(named.values()) / 1000 == pytest.approx(2.95, abs=0.15)


def test_captions_use_every_name() -> None:
    text = "\n".join(f" {caption(rng, scene)} " for rng, scene in scenes(2500, seed=1))
    for entry in classes():
        for name in entry.spoken:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), name


def test_the_site_has_the_stated_faults_and_no_others(built: Path) -> None:
    lines = (built / "site" / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    addresses = [line.split("\t")[1] for line in lines]
    assert addresses == [address(number) for number in range(12)]
    assert address(1234) == "images/001/001234.jpg"
    found = files(built / "site" / "images")
    assert len(found) == 10
    assert sum(content == NOT_AN_IMAGE for content in found.values()) == 1
    assert sum(content.startswith(b"\xff\xd8") for content in found.values()) == 9


def test_the_server_serves_the_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    with serve(folder) as url:
        assert urllib.request.urlopen(url + "images/a.jpg").read() == b"picture"
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        for path in (
            "/",
            "/images/",
            "/images",
            "/missing.jpg",
            "/link",
            "/../secret",
            "/%2e%2e/secret",
            "//etc/passwd",
        ):
            connection = http.client.HTTPConnection(host, int(port))
            connection.request("GET", path)
            assert connection.getresponse().status == 404, path
            connection.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url + "images/a.jpg")


def test_the_server_answers_many_connections_at_once(built: Path) -> None:
    found = files(built / "site")
    names = [name for name in found if name.startswith("images")] * 30
    with serve(built / "site") as url, ThreadPoolExecutor(64) as pool:
        contents = list(pool.map(lambda name: urllib.request.urlopen(url + name, timeout=20).read(), names))
    assert contents == [found[name] for name in names]


def test_a_site_that_does_not_exist_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(TCLError, match="does not"), serve(tmp_path / "none"):
        pass


@pytest.mark.parametrize("dataset", DATASETS)
def test_preparation_accepts_the_data_sets(dataset: str, tmp_path: Path) -> None:
    build(site=tmp_path / "site", benchmarks=tmp_path, settings=SMALL)
    manifest = prepare(dataset, tmp_path, complete=False)["benchmarks"]
    counts = {key: entry["images"] for key, entry in manifest.items()}
    assert set(counts.values()) == ({3, 2} if dataset in ("voc", "context") else {3})


def test_preparation_reads_back_what_was_drawn(tmp_path: Path) -> None:
    """From scene to official annotation to the labels of the evaluation: the same class, pixel by pixel."""
    build(site=tmp_path / "site", benchmarks=tmp_path, settings=SMALL)
    for dataset, key, number in (
        ("context", "context", 1),
        ("coco_stuff164k", "coco_stuff", 2),
        ("ade20k", "ade20k", 0),
    ):
        prepare(dataset, tmp_path, complete=False)
        rng = np.random.default_rng([SMALL.seed, world.STREAMS.index(f"{dataset}/val"), number])
        truth = render(rng, height=32, width=32).labels
        benchmark = load(key)
        labels = read_labels(benchmark.samples(tmp_path)[number].labels).astype(int)
        for name, label in official(key).items():
            value = benchmark.classes.index(name) + (benchmark.zero_label == "ignored")
            read = labels == value
            assert np.array_equal(read, truth == label) or (key == "coco_stuff" and not read.any()), name


def test_voc_labels_are_palette_images_with_a_void_border(built: Path) -> None:
    from PIL import Image

    folder = built / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    paths = sorted(folder.glob("*.png"))
    values: set[int] = set()
    for path in paths:
        with Image.open(path) as image:
            assert image.mode == "P"
            assert (image.getpalette() or [])[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
            values |= set(np.unique(np.array(image)).tolist())
    assert len(paths) == 5
    assert {0, 255} < values <= {*range(21), 255}


def test_classes_that_a_data_set_lacks_get_its_value_for_the_rest() -> None:
    absent = {"voc": ("sky", 0), "context": ("sand", 1), "cityscapes": ("boat", 0), "ade20k": ("cat", 0)}
    for dataset, (name, value) in absent.items():
        assert raw_values(dataset)[index(name)] == value
    assert raw_values("cityscapes")[index("road")] == 7
    assert raw_values("context")[index("aeroplane")] == 2
    assert raw_values("coco_stuff164k")[index("sky")] == 156
    assert raw_values("ade20k")[index("wall")] == 1


def test_the_number_of_workers_changes_nothing(built: Path, tmp_path: Path) -> None:
    again = build(site=tmp_path / "site", benchmarks=tmp_path, settings=SMALL, workers=2)
    assert files(tmp_path) == files(built)
    other = build(site=tmp_path / "site", benchmarks=tmp_path, settings=replace(SMALL, seed=4))
    assert again["site"]["digest"] != other["site"]["digest"]
    assert again["site"] == {"pairs": 12, "images": 9, "dead_links": 2, "broken_images": 1} | {
        "digest": again["site"]["digest"]
    }
    assert again["benchmarks"]["voc"]["train"] == 2
    assert json.loads(json.dumps(again)) == again


def test_training_and_evaluation_scenes_differ(built: Path) -> None:
    seeds = [(world.STREAMS.index(stream), number) for stream in world.STREAMS for number in range(3)]
    images = [render(np.random.default_rng([3, *seed]), height=32, width=32).image.tobytes() for seed in seeds]
    assert len(set(images)) == len(images)


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000032.jpg"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"real")
    with pytest.raises(TCLError, match="VOC2012 is not empty and will not be replaced"):
        build(site=tmp_path / "site", benchmarks=tmp_path, settings=SMALL)
    assert files(tmp_path) == {"VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg": b"real"}


def test_folders_may_not_lie_inside_each_other(tmp_path: Path) -> None:
    with pytest.raises(TCLError, match="must be apart"):
        build(site=tmp_path, benchmarks=tmp_path, settings=SMALL)


def test_a_build_replaces_folders_whole_and_leaves_nothing_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(site=tmp_path / "site", benchmarks=tmp_path, settings=SMALL)
    before = files(tmp_path)
    extra = tmp_path / "cityscapes" / "gtFine" / "val" / "lindau" / "left_over.png"
    extra.write_bytes(b"")
    (tmp_path / ".site.partial").mkdir()
    build(site=tmp_path / "site", benchmarks=tmp_path, settings=SMALL)
    assert files(tmp_path) == before
    assert "cityscapes/" + MARKER in before
    (tmp_path / "site" / "pairs.tsv").write_text("older")
    with pytest.raises(TCLError, match="workers"):
        build(site=tmp_path / "site", benchmarks=tmp_path, settings=SMALL, workers=0)
    assert (tmp_path / "site" / "pairs.tsv").read_text() == "older"
    assert not list(tmp_path.rglob("*.partial"))


def test_settings_name_every_value_out_of_range() -> None:
    with pytest.raises(TCLError, match=r"size must be at least 16, got 8; val_scenes.*; dead_links \+ broken_images"):
        WorldSettings(size=8, pairs=5, dead_links=5, val_scenes=0)


def test_layouts_are_those_of_the_benchmarks() -> None:
    assert set(LAYOUTS) == set(DATASETS)
