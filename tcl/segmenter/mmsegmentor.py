"""TCL as a model of mmsegmentation, for its configs and data sets.

Import this module (`custom_imports = dict(imports=["tcl.segmenter.mmsegmentor"])`) and name the model in a config:
`model = dict(type="TCLSegmentor", checkpoint="weights/tcl.safetensors", classes="PascalVOCDataset20")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from tcl.errors import TCLError
from tcl.inference.load import load
from tcl.inference.settings import IMAGENET_MEAN, IMAGENET_STD
from tcl.inference.slide import sliding_logits
from tcl.mends import mend_mmcv

mend_mmcv()

from mmseg.models import BaseSegmentor  # noqa: E402 (its imports need the mend)
from mmseg.registry import DATASETS, MODELS  # noqa: E402

PREPROCESSOR = {
    "type": "SegDataPreProcessor",
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "bgr_to_rgb": True,
    "pad_val": 0,
    "seg_pad_val": 255,
}


@MODELS.register_module()
class TCLSegmentor(BaseSegmentor):
    """A trained TCL that names a data set's classes and slides over its images as its checkpoint says.

    checkpoint, clip: as for `tcl.load`. classes: names, or an mmsegmentation data set whose classes to take.
    background: class 0 is the background, which has no prompt. Other settings (pamr, kp_w, bg_thresh, window, stride,
    templates) replace the checkpoint's. Resize images in the pipeline: `Resize(scale=(2048, 448), keep_ratio=True)`
    is the paper's.

    Raises TCLError if the checkpoint or the data set's classes cannot be had, or a single channel is left.
    """

    def __init__(
        self,
        checkpoint: str,
        classes: str | Sequence[str],
        *,
        background: bool = False,
        clip: str | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(MODELS.build(data_preprocessor or PREPROCESSOR), init_cfg)
        names = _classes_of(classes) if isinstance(classes, str) else tuple(classes)
        prompted = names[1:] if background else names
        if len(names) < 2:
            raise TCLError(f"classes: at least two are needed, the background included; got {names}.")
        self.align_corners = False
        self.background = background
        self.model = load(Path(checkpoint), clip=clip)
        self.settings = self.model.settings.but(**settings)
        self.register_buffer(
            "embeddings", self.model.class_embeddings(list(prompted), self.settings.templates), persistent=False
        )

    def predict(self, inputs: Tensor, data_samples: Any = None) -> Any:
        """Data samples with `pred_sem_seg` and `seg_logits`, at their images' own size, as mmsegmentation has them."""
        return self.postprocess_result(self.encode_decode(inputs), data_samples)

    @torch.no_grad()
    def encode_decode(self, inputs: Tensor, batch_img_metas: Any = None) -> Tensor:
        """Logits [B, C, H, W] of normalised images [B, 3, H, W]."""
        logits = [
            sliding_logits(self.model, image[None], self.embeddings, settings=self.settings, background=self.background)
            for image in inputs
        ]
        return torch.cat(logits)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Text-aligned embeddings [B, D, h, w] at every mask cell; sizes must be multiples of the patch."""
        return self.model.features(inputs)

    def loss(self, inputs: Tensor, data_samples: Any) -> NoReturn:
        """TCL learns from image-text pairs, never from masks."""
        raise NotImplementedError("TCL is trained on image-text pairs, by `dvc repro`, and not by mmsegmentation.")

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        return self.encode_decode(inputs)


def _classes_of(dataset: str) -> tuple[str, ...]:
    found = DATASETS.get(dataset)
    if found is None:
        raise TCLError(f"classes: {dataset!r} is no data set of mmsegmentation. Give its name, or a list of names.")
    return tuple(found.METAINFO["classes"])
