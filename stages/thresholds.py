"""python -m stages.launch thresholds: choose the background threshold of each training-free method.

One rule for all: of 0.01 to 0.99 the threshold with the highest mIoU on the training images of PASCAL VOC, its
background included. A method keeps it on every benchmark.
"""

from pathlib import Path

from stages.baselines import CLIP, THRESHOLDS, training_free
from tcl.commands.boundary import boundary
from tcl.commands.workspace import data_root
from tcl.config import load_config
from tcl.datasets import benchmark as benchmarks
from tcl.files import sha256, write_json
from tcl.inference.evaluate import Head, evaluate_heads
from tcl.model.ranks import Ranks, joined_ranks

SPLIT = "t_voc"


def main(ranks: Ranks) -> None:
    config = load_config()
    model = training_free(config, ranks)
    outcomes = evaluate_heads(
        model,
        benchmarks.load(SPLIT),
        data_root() / config.datasets["voc"].root,
        heads=[Head(model.settings, part=index) for index in range(len(config.baselines.methods))],
        only=config.benchmarks["voc"].classes,
        ranks=ranks,
    )
    if ranks.first:
        results = zip(config.baselines.methods, (outcome.result for outcome in outcomes), strict=True)
        methods = {name: {**result["thresholds"]["best"], "images": result["images"]} for name, result in results}
        write_json(Path(THRESHOLDS), {"split": SPLIT, "weights": sha256(CLIP), "methods": methods})


if __name__ == "__main__":
    with boundary("thresholds"), joined_ranks() as ranks:
        main(ranks)
