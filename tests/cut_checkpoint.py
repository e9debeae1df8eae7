"""python -m tests.cut_checkpoint: weights/tcl.safetensors of the demo -> tests/data/demo_tcl.safetensors.

Half precision, and only those rows of the token embedding that the world's words, and single letters, need.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tcl.inference.prompts import prompt_templates
from tcl.model.tokenizer import tokenize
from tcl.world.vocabulary import classes

EMBEDDING = "clip.token_embedding.weight"
LETTERS = 512  # the first tokens are single bytes, at the end of a word or not


def main() -> None:
    with safe_open("weights/tcl.safetensors", framework="pt") as file:
        header = file.metadata()
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    names = {name for entry in classes() for name in (*entry.spoken, *entry.names.values())}
    prompts = [template.format(name) for name in sorted(names) for template in prompt_templates("custom")]
    rows = torch.unique(torch.cat([tokenize(prompts).flatten(), torch.arange(LETTERS)]))
    tokens = weights.pop(EMBEDDING)[rows]
    halves = {key: value.half() for key, value in {**weights, "token_rows": tokens}.items()}
    save_file({**halves, "rows": rows}, Path("tests/data/demo_tcl.safetensors"), metadata=header)


if __name__ == "__main__":
    main()
