"""The configuration: what params.yaml may hold, checked as a whole before anything runs.

There are no defaults here: every number stands in conf/, and params.yaml is their composition. A section is the
settings object of its stage.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tcl.errors import TCLError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are never changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Checked = TypeVar("Checked", bound=Section)


class World(Section):
    """The procedural demo world."""

    seed: Count
    size: Positive
    pairs: Positive
    dead_links: Count
    broken_images: Count
    val_scenes: Positive
    train_scenes: Positive


class Columns(Section):
    """The columns of an annotation file: names where it has a header, positions from 0 where it has none."""

    url: int | str
    caption: int | str


class Source(Section):
    """One source of image-text pairs: an annotation file of captions and addresses.

    annotations: path below the data root. serve: a folder below the data root that holds the images, put on a loopback
    server while they are downloaded (the demo). needs: the file that the pipeline makes this source from.
    """

    needs: str
    annotations: str
    format: Literal["tsv", "csv", "parquet"]
    columns: Columns
    serve: str | None
    image_size: Positive
    samples_per_shard: Positive
    success_floor: Share
    retries: Count
    timeout: Positive


class Dataset(Section):
    """One segmentation data set, laid out below `root`.

    archives: the folder of the official archives that it is unpacked from, null if it is laid out already; both are
    paths below the data root. complete: demand the official number of images.
    """

    needs: str
    root: str
    archives: str | None
    complete: bool


class ClipTraining(Section):
    """How the demo's CLIP is trained from scratch; a share `masking` of the patches is left out at first."""

    seed: Count
    global_batch: Positive
    last_step: Positive
    masking: Annotated[float, Field(ge=0, lt=1)]
    masked_steps: Count
    warmup: Count
    lr: Rate
    min_lr: Weight
    betas: tuple[Share, Share]
    eps: Rate
    weight_decay: Weight
    clip_norm: Rate
    augmentation: Literal["flip", "deit"]
    checkpoint_every: Positive
    log_every: Positive


class Clip(Section):
    """Where the frozen CLIP comes from: trained here on the pairs, or open_clip's, named "architecture:tag"."""

    needs: str
    pretrained: str | None
    training: ClipTraining | None

    @model_validator(mode="after")
    def one_origin(self) -> Clip:
        if (self.pretrained is None) == (self.training is None):
            raise ValueError("exactly one of pretrained and training must be given")
        return self


class ClipSizes(Section):
    """Sizes of the CLIP; quick_gelu: its activation is QuickGELU, as in OpenAI's weights, and not GELU."""

    embed_dim: Positive
    image_size: Positive
    patch_size: Positive
    vision_width: Positive
    vision_layers: Positive
    vision_heads: Positive
    context_length: Positive
    vocab_size: Positive
    text_width: Positive
    text_layers: Positive
    text_heads: Positive
    quick_gelu: bool


class Model(Section):
    """Sizes of the CLIP and of the grounder on top of it."""

    clip: ClipSizes
    frozen_blocks: Positive
    decoder_levels: Count
    ordinary_attention: bool

    @model_validator(mode="after")
    def fits(self) -> Model:
        if self.frozen_blocks >= self.clip.vision_layers:
            raise ValueError(f"frozen_blocks must be below clip.vision_layers = {self.clip.vision_layers}")
        if self.clip.image_size % self.clip.patch_size:
            raise ValueError("clip.image_size must be a multiple of clip.patch_size")
        return self


class Objective(Section):
    """Weights of the loss terms, the area priors, and which masks the two contrastive losses use."""

    tcli: Weight
    tclf: Weight
    area: Weight
    tv_image: Weight
    tv_mask: Weight
    area_prior: Share
    negative_area_prior: Share
    soft_image_masks: bool
    hard_pooling: bool


class Train(Section):
    """Training of TCL. Steps 0..last_step are run; the first decoder_only_steps leave the copied block as it is.

    checkpoint_every: steps between two saved states, of which the newest serve to resume. keep_every: steps between two
    sets of learned weights that are kept for good, to be scored on the monitors.
    """

    seed: Count
    global_batch: Positive
    last_step: Positive
    decoder_only_steps: Count
    warmup: Count
    lr: Rate
    min_lr: Weight
    betas: tuple[Share, Share]
    eps: Rate
    weight_decay: Weight
    clip_norm: Rate
    sources: Annotated[tuple[str, ...], Field(min_length=1)] | None
    objective: Objective
    augmentation: Literal["flip", "deit"]
    precision: Literal["float32", "bfloat16", "float16"]
    checkpoint_every: Positive
    keep_every: Positive
    log_every: Positive

    @model_validator(mode="after")
    def schedule(self) -> Train:
        if self.warmup > self.last_step:
            raise ValueError(f"warmup must not exceed last_step = {self.last_step}")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must not exceed lr = {self.lr}")
        return self


class Inference(Section):
    """How a model is used on images; `InferenceSettings` by another name."""

    short_side: Positive
    long_side: Positive
    window: Positive
    stride: Positive
    pamr: bool
    pamr_iterations: Positive
    pamr_dilations: Annotated[tuple[Positive, ...], Field(min_length=1)]
    kp_w: Share
    bg_thresh: Share | None
    bg_thresh_with_pamr: Share
    bg_thresh_without_pamr: Share
    templates: str

    @model_validator(mode="after")
    def windows_overlap(self) -> Inference:
        if self.stride > self.window:
            raise ValueError(f"stride must not exceed window = {self.window}, or pixels are left out")
        return self


class Evaluate(Inference):
    """The evaluation protocol, and how many overlay pictures to keep of each benchmark."""

    overlays: Count


class Benchmark(Section):
    """One benchmark: its classes that are prompted and scored (null: all), its own threshold (null: the common one)."""

    dataset: str
    classes: tuple[str, ...] | None
    bg_thresh: Share | None


class Baselines(Section):
    """Training-free methods on the frozen CLIP, by their names in `tcl.inference.baselines`."""

    methods: Annotated[tuple[str, ...], Field(min_length=1)]


class Ablations(Section):
    """What is run beyond the main table, by the names of files in conf/ablation.

    trained: variants of training, each once a seed, scored on the data sets. swept: lists of inference settings under
    which the main model is scored. monitored: main models that are scored on the monitors' training splits too.
    """

    trained: tuple[str, ...]
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)]
    swept: tuple[str, ...]
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    monitored: tuple[str, ...]


class Evaluation(Section):
    """Which trained variant is scored on which benchmark, and the data set that holds it."""

    variant: str
    benchmark: str
    dataset: str


class Official(Section):
    """The authors' checkpoint: its address, and its path below the data root."""

    url: str
    path: str


class Report(Section):
    """The result tables: which of the paper's rows stand beside ours, and the benchmark that is shown in pictures."""

    title: str
    paper_rows: tuple[str, ...]
    differences: tuple[tuple[str, str], ...]
    pictures_of: str
    pictures: Count


class Config(Section):
    """All of params.yaml."""

    profile: str
    seed: Count
    worlds: tuple[str, ...]
    world: World | None
    sources: Annotated[dict[str, Source], Field(min_length=1)]
    datasets: dict[str, Dataset]
    clip: Clip
    model: Model
    variants: tuple[str, ...]
    train: Train
    checkpoints: dict[str, Official]
    evaluations: dict[str, Evaluation]
    benchmarks: dict[str, Benchmark]
    monitors: dict[str, Benchmark]
    inference: Inference
    evaluate: Evaluate
    baselines: Baselines
    ablations: Ablations
    report: Report

    @model_validator(mode="after")
    def consistent(self) -> Config:
        if problems := list(self._contradictions()):
            raise ValueError("; ".join(problems))
        return self

    def _contradictions(self) -> list[str]:
        known = {*self.variants, *self.checkpoints}
        problems = []
        for name, evaluation in self.evaluations.items():
            if name != f"{evaluation.variant}-{evaluation.benchmark}":
                problems.append(f"evaluations.{name}: must be named {evaluation.variant}-{evaluation.benchmark}")
            if evaluation.variant not in known:
                problems.append(f"evaluations.{name}.variant: {evaluation.variant!r} is not among {sorted(known)}")
            benchmark = self.benchmarks.get(evaluation.benchmark)
            if benchmark is None:
                problems.append(f"evaluations.{name}.benchmark: {evaluation.benchmark!r} is not among the benchmarks")
            elif benchmark.dataset != evaluation.dataset:
                problems.append(f"evaluations.{name}.dataset: must be {benchmark.dataset!r}")
        for group, members in (("benchmarks", self.benchmarks), ("monitors", self.monitors)):
            for name, benchmark in members.items():
                if benchmark.dataset not in self.datasets:
                    problems.append(f"{group}.{name}.dataset: {benchmark.dataset!r} is not among the data sets")
        for name in self.train.sources or ():
            if name not in self.sources:
                problems.append(f"train.sources: {name!r} is not among the sources {', '.join(self.sources)}")
        for name in self.ablations.datasets:
            if name not in self.datasets:
                problems.append(f"ablations.datasets: {name!r} is not among the data sets")
        for name in self.ablations.monitored:
            if name not in known:
                problems.append(f"ablations.monitored: {name!r} is not among {sorted(known)}")
        return problems


def load_config(path: str | Path = "params.yaml", *, variant: str | None = None) -> Config:
    """Read and check the whole configuration, its ablations included.

    variant: `ablations/<name>-<seed>` for what that ablation is trained with; else the base. Raises TCLError that lists
    every problem at once.
    """
    from tcl.ablations import check_ablations, varied

    values = read_params(Path(path))
    config = check_config(values, source=str(path))
    folder = Path(path).parent / "conf/ablation"
    check_ablations(config, values, folder)
    return varied(values, variant, folder) if variant and variant.startswith("ablations/") else config


def read_params(path: Path) -> Any:
    """The values in a parameter file, not checked; raises TCLError if it is not there or no YAML."""
    if not path.is_file():
        raise TCLError(f"{path}: not found. Run from the project's root; `tcl config` makes it from conf/.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise TCLError(f"{path}: not valid YAML ({error}). `tcl config` makes it anew from conf/.") from error


def check_config(values: Any, *, source: str) -> Config:
    """Check composed values; raises TCLError with key, rule, value and the nearest valid key for each problem."""
    return check_section(Config, values, source=source)


def check_section(section: type[Checked], values: Any, *, source: str) -> Checked:
    """Check the values of one section, as `check_config` does those of all."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = [_describe(problem, section) for problem in error.errors()]
        raise TCLError(f"{source}: {len(lines)} problem(s) in the configuration.\n  " + "\n  ".join(lines)) from None


def _describe(problem: Any, section: type[Section]) -> str:
    """One line for one pydantic problem: key, rule, value seen, nearest valid key."""
    key = ".".join(str(part) for part in problem["loc"]) or "the whole"
    if problem["type"] == "extra_forbidden":
        siblings = _known_keys(section, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), siblings, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(siblings)}."
        return f"{key}: there is no such key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}; got {problem['input']!r}"


def _known_keys(section: type[Section], location: tuple[Any, ...]) -> list[str]:
    """Field names of the section at a location below `section`."""
    model: Any = section
    for part in location:
        if isinstance(model, type) and issubclass(model, Section):
            field = model.model_fields.get(str(part))
            model = _section_of(field.annotation) if field else None
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, Section) else []


def _section_of(annotation: Any) -> Any:
    """The section inside an annotation such as `World | None` or `dict[str, Source]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _section_of(argument)) is not None:
            return found
    return None
