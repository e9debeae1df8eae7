"""python -m stages.launch train VARIANT: train TCL on the frozen CLIP; on several nodes, under torchrun on each."""

import sys
from pathlib import Path

import torch

from tcl.commands.boundary import boundary
from tcl.commands.machine import machine
from tcl.commands.tracking import tracked
from tcl.commands.workspace import data_root, runs_root
from tcl.config import load_config
from tcl.files import sha256, write_csv
from tcl.model.build import build_tcl
from tcl.model.checkpoint import load_clip, save_tcl
from tcl.model.clip import ClipSizes
from tcl.model.ranks import Ranks, joined_ranks
from tcl.model.tcl import Objective
from tcl.training.data import open_pairs, training_batches
from tcl.training.loop import fit
from tcl.training.machine import prepare
from tcl.training.pictures import mask_picture
from tcl.training.resume import resume_directory
from tcl.training.snapshots import Snapshots
from tcl.training.state import Row
from tcl.training.tasks import TCLTask

CLIP = Path("weights/clip.safetensors")
MANIFESTS = Path("manifests/pairs")
PICTURED = 6
"""Training images whose masks are drawn now and then."""


def main(variant: str, ranks: Ranks) -> None:
    config = load_config(variant=variant)
    plan, sizes, here = config.train, config.model, machine()
    sources = plan.sources or tuple(config.sources)
    readers = open_pairs(sources, shards=data_root(), manifests=MANIFESTS)
    subject = {
        "train": plan.model_dump(exclude={"checkpoint_every"}),
        "model": sizes.model_dump(),
        "clip": sha256(CLIP),
        "pairs": {name: sha256(MANIFESTS / f"{name}.json") for name in sources},
    }
    torch.manual_seed(plan.seed)
    model = build_tcl(
        load_clip(CLIP, expected=ClipSizes(**sizes.clip.model_dump())),
        frozen_blocks=sizes.frozen_blocks,
        decoder_levels=sizes.decoder_levels,
        ordinary_attention=sizes.ordinary_attention,
        objective=Objective(**plan.objective.model_dump()),
    ).to(ranks.device)
    prepare(model, here)
    batches = training_batches(
        readers,
        augmentation=plan.augmentation,
        image_size=sizes.clip.image_size,
        context_length=sizes.clip.context_length,
        seed=plan.seed,
        global_batch=plan.global_batch,
        steps=plan.last_step + 1,
        ranks=ranks,
        mask_grid=model.mask_grid(torch.empty(0, 3, sizes.clip.image_size, sizes.clip.image_size)),
    )
    task = TCLTask(
        model,
        decoder_only_steps=plan.decoder_only_steps,
        global_batch=plan.global_batch,
        ranks=ranks,
        micro_batch=here.micro_batch,
    )
    first = batches[0]
    shown = (first["images"][:PICTURED].to(ranks.device), first["tokens"][:PICTURED].to(ranks.device))
    with (
        resume_directory(runs_root(), f"train-{variant}", subject, first=ranks.first) as resume,
        tracked(f"train@{variant}", subject, enabled=ranks.first, run_id=resume.run_id) as run,
    ):

        def log(row: Row) -> None:
            run.log(row)
            resume.remember_run(run.id)
            if row["step"] % plan.keep_every == 0 or row["step"] == plan.last_step:
                run.picture(
                    mask_picture(model, *shown, first["captions"][:PICTURED]), f"masks/step-{int(row['step']):08d}.png"
                )

        snapshots = Snapshots(resume.path / "snapshots", every=plan.keep_every)
        rows = fit(
            task,
            batches,
            plan=plan,
            ranks=ranks,
            resume=resume,
            precision=plan.precision,
            workers=here.workers,
            timeout=here.timeout,
            title=f"train {variant}",
            snapshots=snapshots,
            on_log=log,
        )
        if ranks.first:
            snapshots.publish(Path(f"snapshots/{variant}"))
            write_csv(Path(f"curves/{variant}.csv"), rows)
            weights = Path(f"weights/{variant}.safetensors")
            save_tcl(weights, model, inference=config.inference.model_dump())
            run.weights(weights)
            resume.discard()


if __name__ == "__main__":
    with boundary(f"train {sys.argv[1]}"), joined_ranks(machine().timeout) as ranks:
        main(sys.argv[1], ranks)
