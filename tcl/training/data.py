"""Training batches from verified shards: images, captions and their tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from tcl.model.ranks import Ranks
from tcl.model.tokenizer import tokenize
from tcl.pairs.dataset import PairBatches
from tcl.pairs.manifest import read_manifest, verify
from tcl.pairs.shards import PairReader
from tcl.pairs.transforms import training_transform
from tcl.training.draws import uniform

# ImageNet's statistics of pixel values in [0, 1], RGB; TCL uses them instead of CLIP's.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def open_pairs(names: Iterable[str], *, shards: Path, manifests: Path) -> list[PairReader]:
    """Readers of the sources `names`: shards in `shards/<name>`, described by `manifests/<name>.json`.

    Raises TCLError that names each shard which is missing, of another size or foreign.
    """
    readers = []
    for name in names:
        manifest = read_manifest(manifests / f"{name}.json")
        verify(manifest, shards / name, hashes=False)
        readers.append(PairReader(shards / name, manifest))
    return readers


class TrainingBatches(Dataset[dict[str, Any]]):
    """Pair batches with all that a step needs besides; item `step` as in `PairBatches`.

    tokens: [b, context_length] int64. noise: uniform draws [b, *grid] for the Gumbel masks, if a mask grid is given.
    """

    def __init__(self, batches: PairBatches, context_length: int, grid: tuple[int, int] | None) -> None:
        self.batches, self.context_length, self.grid = batches, context_length, grid

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, Any]:
        batch = self.batches[step]
        item = {**batch, "tokens": tokenize(batch["captions"], self.context_length)}
        if self.grid is not None:
            first = self.batches.rank * self.batches.local_batch
            item["noise"] = uniform(self.batches.seed, step, range(first, first + self.batches.local_batch), self.grid)
        return item


def training_batches(
    readers: list[PairReader],
    *,
    augmentation: str,
    image_size: int,
    context_length: int,
    seed: int,
    global_batch: int,
    steps: int,
    ranks: Ranks,
    mask_grid: tuple[int, int] | None = None,
) -> TrainingBatches:
    """This rank's share of every step's global batch, augmented, normalised and tokenised.

    mask_grid: with it come the draws for the masks.
    """
    batches = PairBatches(
        readers,
        transform=training_transform(augmentation, size=image_size, mean=MEAN, std=STD),
        seed=seed,
        global_batch=global_batch,
        steps=steps,
        rank=ranks.rank,
        ranks=ranks.size,
    )
    return TrainingBatches(batches, context_length, mask_grid)
