"""python -m stages.launch clip: the frozen CLIP, trained on the pairs (demo) or open_clip's pretrained (paper)."""

from pathlib import Path

import torch

from tcl.commands.boundary import boundary
from tcl.commands.tracking import tracked
from tcl.commands.workspace import data_root, runs_root, worker_count
from tcl.config import ClipTraining, Config, load_config
from tcl.files import sha256
from tcl.model.checkpoint import save_clip
from tcl.model.clip import ClipSizes, build_clip
from tcl.model.pretrained import pretrained_clip
from tcl.model.ranks import Ranks, joined_ranks
from tcl.training.data import open_pairs, training_batches
from tcl.training.loop import fit
from tcl.training.resume import resume_directory
from tcl.training.tasks import CLIPTask

OUT = Path("weights/clip.safetensors")
MANIFESTS = Path("manifests/pairs")


def main() -> None:
    config = load_config()
    sizes = ClipSizes(**config.model.clip.model_dump())
    with joined_ranks() as ranks:
        if config.clip.training is not None:
            train(config, config.clip.training, sizes, ranks)
        elif ranks.first:
            clip, origin = pretrained_clip(str(config.clip.pretrained), sizes=sizes, folder=data_root() / "checkpoints")
            print(f"{origin['name']}: {origin['file']}, SHA-256 {origin['sha256']}")
            save_clip(OUT, clip, origin=origin)
        ranks.barrier()


def train(config: Config, plan: ClipTraining, sizes: ClipSizes, ranks: Ranks) -> None:
    readers = open_pairs(config.sources, shards=data_root(), manifests=MANIFESTS)
    subject = {
        "training": plan.model_dump(),
        "sizes": sizes.to_dict(),
        "pairs": {name: sha256(MANIFESTS / f"{name}.json") for name in config.sources},
    }
    torch.manual_seed(plan.seed)
    clip = build_clip(sizes).to(ranks.device)
    batches = training_batches(
        readers,
        augmentation=plan.augmentation,
        image_size=sizes.image_size,
        context_length=sizes.context_length,
        seed=plan.seed,
        global_batch=plan.global_batch,
        steps=plan.last_step + 1,
        ranks=ranks,
    )
    with (
        resume_directory(runs_root(), "clip", subject, first=ranks.first) as resume,
        tracked("clip", subject, enabled=ranks.first) as run,
    ):
        fit(
            CLIPTask(clip, seed=plan.seed, masking=plan.masking, masked_steps=plan.masked_steps, ranks=ranks),
            batches,
            plan=plan,
            ranks=ranks,
            resume=resume,
            workers=worker_count(ranks.size),
            title="clip",
            on_log=run.log,
        )
        if ranks.first:
            save_clip(OUT, clip)
            run.weights(OUT)
            resume.discard()


if __name__ == "__main__":
    with boundary("clip"):
        main()
