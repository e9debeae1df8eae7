"""`tcl config [key=value ...]`: compose conf/ into params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tcl.ablations import check_ablations
from tcl.config import check_config
from tcl.errors import TCLError
from tcl.files import write_text

HEADER = """\
# Composed from conf/ by `tcl config` (and by `dvc exp run -S`). Do not edit: change conf/ and compose again.
"""


def compose(conf: Path, overrides: list[str]) -> dict[str, Any]:
    """The configuration that conf/ and Hydra overrides give, as plain values; raises TCLError if Hydra refuses."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(conf.absolute()), version_base=None):
            composed = hydra_compose("config", overrides=overrides)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        raise TCLError(f"{' '.join(overrides) or conf}: {' '.join(line.strip() for line in reason)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def write_params(overrides: list[str], *, conf: Path = Path("conf"), params: Path = Path("params.yaml")) -> None:
    """Compose, check and write the parameters that every stage reads; nothing is written if a check fails."""
    if not (conf / "config.yaml").is_file():
        raise TCLError(f"{conf / 'config.yaml'}: not found. Run from the project's root.")
    values = compose(conf, overrides)
    config = check_config(values, source=" ".join(overrides) or str(conf))
    check_ablations(config, values, conf / "ablation")
    if config.clip.pretrained is not None:
        from tcl.model.clip import ClipSizes
        from tcl.model.pretrained import check_sizes

        check_sizes(config.clip.pretrained, ClipSizes(**config.model.clip.model_dump()))
    write_text(params, HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
