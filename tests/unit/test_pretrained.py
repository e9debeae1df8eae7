"""Pretrained CLIPs of open_clip: which fit, how they are read, and that ours computes what open_clip does."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tcl
from tcl.errors import TCLError
from tcl.export.write import export
from tcl.files import sha256
from tcl.inference.baselines import METHODS, TrainingFree
from tcl.inference.masks import soft_masks
from tcl.inference.settings import InferenceSettings
from tcl.mends import import_open_clip
from tcl.model.build import build_tcl
from tcl.model.checkpoint import load_clip, save_clip, save_tcl
from tcl.model.clip import Clip, ClipSizes, clip_sizes, embed_patches, encode_text, run_blocks
from tcl.model.official import save_official
from tcl.model.pretrained import OPENAI, check_sizes, find_tower, openai_clip, pretrained_clip
from tcl.model.tcl import TCL
from tests.file_server import serving

import_open_clip()
import open_clip  # noqa: E402
from open_clip import factory, pretrained  # noqa: E402

SHAPES: dict[str, dict[str, Any]] = {
    "ViT-small-16": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
    },
    "ViT-small-14": {
        "embed_dim": 96,
        "vision_cfg": {"image_size": 56, "layers": 4, "width": 192, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
    },
}
"""B/16 and L/14 at reduced width."""

HUB = {"gelu": {"hf_hub": "laion/small/"}, "quick": {"hf_hub": "apple/small/", "quick_gelu": True}}


def register(name: str, config: dict[str, Any], tags: dict[str, Any], folder: Path) -> None:
    """Make a model known to open_clip, with pretrained weights at these places."""
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    pretrained._PRETRAINED[name] = tags


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small models in open_clip's lists, and the folder of the checkpoints."""
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {**factory._MODEL_CONFIGS})
    monkeypatch.setattr(pretrained, "_PRETRAINED", {**pretrained._PRETRAINED})
    for name, config in SHAPES.items():
        register(name, config, HUB, tmp_path)
    return tmp_path / "checkpoints"


def theirs(name: str) -> Clip:
    """The model as open_clip builds it, with random weights."""
    architecture, tag = name.split(":")
    torch.manual_seed(0)
    quick = bool(pretrained._PRETRAINED[architecture][tag].get("quick_gelu"))
    return open_clip.create_model(architecture, force_quick_gelu=quick).eval()


def put(folder: Path, name: str, clip: Clip) -> Path:
    """The weights of a CLIP where a user without internet puts them."""
    file = folder / find_tower(name).repository / "open_clip_model.safetensors"  # type: ignore[operator]
    file.parent.mkdir(parents=True)
    save_file(clip.state_dict(), file)
    return file


def embedded(clip: Clip, images: torch.Tensor) -> torch.Tensor:
    """The image embedding by our own functions."""
    tokens = run_blocks(clip.visual.transformer.resblocks, embed_patches(clip.visual, images))
    return clip.visual.ln_post(tokens[:, 0]) @ clip.visual.proj


@pytest.mark.parametrize("name", [f"{model}:{tag}" for model in SHAPES for tag in HUB])
def test_against_open_clip(name: str, known: Path) -> None:
    reference = theirs(name)
    file = put(known, name, reference)
    sizes = find_tower(name).sizes
    ours, origin = pretrained_clip(name, sizes=sizes, folder=known)
    assert origin == {"name": name, "file": "open_clip_model.safetensors", "sha256": sha256(file)}
    assert clip_sizes(ours) == sizes
    assert sizes.quick_gelu == name.endswith("quick")
    images = torch.randn(2, 3, sizes.image_size, sizes.image_size)
    tokens = tcl.tokenize(["a photo of a cat", "dogs"])
    with torch.no_grad():
        torch.testing.assert_close(embedded(ours, images), reference.encode_image(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(encode_text(ours, tokens), reference.encode_text(tokens), rtol=0, atol=1e-5)


def test_the_activation_matters_and_is_kept_on_file(known: Path, tmp_path: Path) -> None:
    reference = theirs("ViT-small-16:gelu")
    put(known, "ViT-small-16:gelu", reference)
    gelu, origin = pretrained_clip("ViT-small-16:gelu", sizes=find_tower("ViT-small-16:gelu").sizes, folder=known)
    save_clip(tmp_path / "clip.safetensors", gelu, origin=origin)
    again = load_clip(tmp_path / "clip.safetensors", expected=clip_sizes(gelu))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(embedded(again, images), embedded(gelu, images))
        save_clip(tmp_path / "quick.safetensors", theirs("ViT-small-16:quick"))  # the same weights
        quick = load_clip(tmp_path / "quick.safetensors")
        assert (embedded(quick, images) - embedded(gelu, images)).abs().max() > 1e-3
    with pytest.raises(TCLError, match=r"quick_gelu=False\), but model\.clip asks for .*quick_gelu=True"):
        load_clip(tmp_path / "clip.safetensors", expected=clip_sizes(quick))


def header(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return json.loads(metadata["tcl"])


def test_files_of_quick_gelu_are_as_they_always_were(known: Path, tmp_path: Path) -> None:
    clip = theirs("ViT-small-16:quick")
    save_clip(tmp_path / "clip.safetensors", clip)
    assert set(header(tmp_path / "clip.safetensors")) == {"format", "sizes"}
    assert "quick_gelu" not in header(tmp_path / "clip.safetensors")["sizes"]
    save_tcl(tmp_path / "tcl.safetensors", build_tcl(clip, frozen_blocks=2, decoder_levels=1), inference={})
    assert "quick_gelu" not in header(tmp_path / "tcl.safetensors")["sizes"]["clip"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_pickled_file_is_read_and_not_executed(prefix: str, known: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    name = "ViT-small-16:gelu"
    state = {f"{prefix}{key}": value.half() for key, value in theirs(name).state_dict().items()}
    file = known / "laion/small/open_clip_pytorch_model.bin"
    file.parent.mkdir(parents=True)
    torch.save({"state_dict": state, "optimizer": Bomb()}, file)
    clip = pretrained_clip(name, sizes=find_tower(name).sizes, folder=known).clip
    assert torch.equal(clip.visual.proj, state[f"{prefix}visual.proj"].float())
    assert not (tmp_path / "executed").exists()


def test_a_file_of_another_model_is_refused_key_by_key(known: Path) -> None:
    put(known, "ViT-small-16:gelu", theirs("ViT-small-14:gelu"))
    with pytest.raises(TCLError, match=r"small/open_clip_model\.safetensors: the weights do not fit .*(\n.*)*foreign"):
        pretrained_clip("ViT-small-16:gelu", sizes=find_tower("ViT-small-16:gelu").sizes, folder=known)


@pytest.fixture
def openai(known: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A small model as OpenAI distributes its own: TorchScript in half precision, its SHA-256 in its address."""
    config = SHAPES["ViT-small-14"]
    clip = open_clip.create_model("ViT-small-14", force_quick_gelu=True).eval()
    clip.attn_mask = None  # tracing would make a weight of it
    traced = torch.jit.trace(clip, (torch.zeros(1, 3, 56, 56), torch.zeros(1, 77, dtype=torch.long)), check_trace=False)
    traced.half().save(tmp_path / "model.pt")
    published = sha256(tmp_path / "model.pt")
    place = tmp_path / "site/openaipublic" / published
    place.mkdir(parents=True)
    (tmp_path / "model.pt").rename(place / "ViT-tiny-14.pt")
    with serving(tmp_path / "site") as site:
        url = f"{site.address}/openaipublic/{published}/ViT-tiny-14.pt"
        register("ViT-tiny-14", config, {OPENAI: {"url": url, "quick_gelu": True}}, tmp_path)
        yield "ViT-tiny-14:openai", place / "ViT-tiny-14.pt"


@pytest.mark.filterwarnings("ignore")
def test_openais_own_file_is_fetched_and_checked(openai: tuple[str, Path], known: Path) -> None:
    name, file = openai
    clip, origin = pretrained_clip(name, sizes=find_tower(name).sizes, folder=known)
    assert (known / "ViT-tiny-14.pt").read_bytes() == file.read_bytes()
    assert origin["sha256"] == file.parent.name
    assert clip_sizes(clip) == find_tower(name).sizes
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        assert torch.equal(embedded(openai_clip(file), images), embedded(clip, images))
    (known / "ViT-tiny-14.pt").write_bytes(b"broken off")
    file.write_bytes(b"another file")
    with pytest.raises(TCLError, match=r"checkpoints/ViT-tiny-14\.pt: .* could not be fetched .*SHA256.* and put it "):
        pretrained_clip(name, sizes=find_tower(name).sizes, folder=known)


def test_disagreement_is_told_before_anything_is_fetched(known: Path) -> None:
    with pytest.raises(TCLError) as caught:
        pretrained_clip("ViT-small-16:gelu", sizes=find_tower("ViT-small-14:quick").sizes, folder=known)
    assert "patch_size is 14, must be 16" in str(caught.value)
    assert "quick_gelu is True, must be False" in str(caught.value)
    assert not known.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-16:laion2b", r"no 'ViT-B-16:laion2b'; of ViT-B-16 there are: openai, .*laion2b_s34b_b88k"),
        ("ViT-B16:openai", "no 'ViT-B16:openai'; did you mean .*ViT-B-16"),
        ("openai", "no 'openai'; a name is architecture:tag, as in ViT-B-16:openai"),
        ("ViT-B-16-SigLIP:webli", "custom_text = True.*timm_model_name = 'vit_base_patch16_siglip_224'"),
        ("ViT-L-14-CLIPA:datacomp1b", "no_ln_pre = True, .*final_ln_after_pool = True, .*pool_type = 'avg'"),
        ("ViT-bigG-14:laion2b_s39b_b160k", r"mlp_ratio = 4\.9231"),
        ("ViT-H-14-worldwide:metaclip2_worldwide", "hf_tokenizer_name = 'facebook/xlm-v-base'"),
        ("RN50:openai", r"vision_cfg\.layers = \[3, 4, 6, 3\]"),
        ("coca_ViT-L-14:laion2b_s13b_b90k", r"vision_cfg\.attentional_pool = True"),
    ],
)
def test_what_is_not_supported_is_named(name: str, message: str) -> None:
    with pytest.raises(TCLError, match=message):
        find_tower(name)


@pytest.mark.parametrize(("change", "message"), [({"ls_init_value": 1e-4}, "ls_init_value = 0.0001")])
def test_layer_scale_is_not_supported(change: dict[str, Any], message: str, known: Path, tmp_path: Path) -> None:
    config = {**SHAPES["ViT-small-16"], "vision_cfg": {**SHAPES["ViT-small-16"]["vision_cfg"], **change}}
    register("ViT-other", config, HUB, tmp_path)
    with pytest.raises(TCLError, match=message):
        find_tower("ViT-other:gelu")


def test_the_activation_follows_the_weights() -> None:
    """ViT-B-16:openai and ViT-B-16-quickgelu:openai are the same model."""
    assert find_tower("ViT-B-16:openai").sizes == ClipSizes()
    assert find_tower("ViT-B-16-quickgelu:openai").sizes == ClipSizes()
    assert find_tower("ViT-L-14:dfn2b").sizes.quick_gelu
    assert not find_tower("ViT-L-14:laion2b_s32b_b82k").sizes.quick_gelu
    assert find_tower("ViT-H-14:laion2b_s32b_b79k").sizes.vision_heads == 16


def test_without_a_network_the_error_says_where_to_put_the_file(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sizes = check_sizes("ViT-small-16:gelu", find_tower("ViT-small-16:gelu").sizes).sizes
    message = r"checkpoints/laion/small: .* Fetch open_clip_model\.safetensors, .*https://huggingface\.co/laion/small"
    with pytest.raises(TCLError, match=message):
        pretrained_clip("ViT-small-16:gelu", sizes=sizes, folder=known)


def test_what_lies_in_hugging_faces_cache_is_used(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    stored, revision = tmp_path / "hub/models--laion--small", "0" * 40
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text(revision)
    (stored / "snapshots" / revision).mkdir(parents=True)
    reference = theirs("ViT-small-16:gelu")
    save_file(reference.state_dict(), stored / "snapshots" / revision / "open_clip_model.safetensors")
    clip = pretrained_clip("ViT-small-16:gelu", sizes=clip_sizes(reference), folder=known).clip
    assert torch.equal(clip.visual.proj, reference.visual.proj)


HUB_CLIENT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.test_pretrained import SHAPES, HUB, register
from tcl.model.pretrained import find_tower, pretrained_clip
here = Path({here!r})
register("ViT-small-16", SHAPES["ViT-small-16"], HUB, here)
found = pretrained_clip("ViT-small-16:gelu", sizes=find_tower("ViT-small-16:gelu").sizes, folder=here / "checkpoints")
print(found.origin["sha256"])
"""


@pytest.mark.slow
def test_weights_are_fetched_from_a_hub(known: Path, tmp_path: Path) -> None:
    file = tmp_path / "open_clip_model.safetensors"
    save_file(theirs("ViT-small-16:gelu").state_dict(), file)

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            if self.answer():
                self.wfile.write(file.read_bytes())

        def answer(self) -> bool:
            found = self.path == "/laion/small/resolve/main/open_clip_model.safetensors" or "0" * 40 in self.path
            self.send_response(200 if found else 404)
            self.send_header("ETag", '"' + sha256(file) + '"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(file.stat().st_size if found else 0))
            self.end_headers()
            return found

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = subprocess.run(
            [sys.executable, "-c", HUB_CLIENT.format(root=str(Path(__file__).parents[2]), here=str(tmp_path))],
            env={
                **os.environ,
                "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
        )
        server.shutdown()
    assert result.stdout.strip() == sha256(file), result.stderr


@pytest.fixture(params=["ViT-small-16:quick", "ViT-small-14:gelu", "ViT-small-14:quick"])
def trained(request: pytest.FixtureRequest, known: Path) -> TCL:
    """A TCL on such a tower, one step of training done."""
    clip = theirs(request.param)
    model = build_tcl(clip, frozen_blocks=len(clip.visual.transformer.resblocks) - 1, decoder_levels=2)
    side = clip_sizes(clip).image_size
    optimiser = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    losses = model.losses(torch.randn(2, 3, side, side), tcl.tokenize(["a cat", "a dog"]))
    losses["total"].backward()
    optimiser.step()
    return model.eval()


def test_tcl_on_such_a_tower(trained: TCL, tmp_path: Path) -> None:
    """Learns, is kept, and segments pictures whose sides are no multiple of its patch."""
    settings = InferenceSettings(short_side=60, long_side=200, window=56, stride=28, pamr_dilations=(1, 2))
    save_tcl(tmp_path / "tcl.safetensors", trained, inference=settings.to_dict())
    again = tcl.load(tmp_path / "tcl.safetensors")
    assert clip_sizes(again.clip) == clip_sizes(trained.clip)
    images = torch.randn(1, 3, 61, 75)
    words = again.class_embeddings(["cat", "dog"])
    assert again.soft_masks(images, words).shape == (1, 2, 61, 75)
    assert torch.equal(again.features(images[..., :56, :56]), trained.features(images[..., :56, :56]))
    segmenter = tcl.Segmenter.from_checkpoint(tmp_path / "tcl.safetensors")
    pixels = (torch.rand(50, 70, 3) * 255).byte().numpy()
    assert segmenter(pixels, ["cat", "dog"]).labels.shape == (50, 70)


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["ViT-small-14:gelu"], indirect=True)
def test_such_a_model_is_exported(trained: TCL, tmp_path: Path) -> None:
    settings = InferenceSettings(short_side=56, window=56, stride=28)
    save_tcl(tmp_path / "tcl.safetensors", trained, inference=settings.to_dict())
    model, sizes = tcl.load(tmp_path / "tcl.safetensors"), [(56, 56), (61, 75), (43, 150)]
    checks = export(model, tmp_path / "tcl.pt2", form="torch.export", sizes=sizes)
    assert max(check.difference for check in checks) <= 1e-4


def test_training_free_methods_on_such_a_tower(trained: TCL) -> None:
    settings = InferenceSettings(pamr_dilations=(1, 2))
    methods = TrainingFree(trained.clip, list(METHODS), settings, levels=2)
    masks = soft_masks(methods, torch.randn(1, 3, 61, 75), methods.class_embeddings(["cat", "dog"]), settings)
    assert masks.shape == (1, 2 * len(METHODS), 61, 75)
    assert torch.isfinite(masks).all()


def test_the_official_layout_holds_quick_gelu_alone(trained: TCL, tmp_path: Path) -> None:
    if clip_sizes(trained.clip).quick_gelu:
        save_official(tmp_path / "tcl.pth", trained, source="here")
        assert clip_sizes(tcl.load(tmp_path / "tcl.pth").clip) == clip_sizes(trained.clip)
    else:
        with pytest.raises(TCLError, match="here: the official layout is for QuickGELU"):
            save_official(tmp_path / "tcl.pth", trained, source="here")
