"""What there is to say about a source of image-text pairs before anything is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tcl.errors import TCLError
from tcl.pairs.tables import FORMATS, Columns

CAPTION_URL = Columns(url=1, caption=0)


@dataclass(frozen=True)
class Source:
    """One list of image-text pairs and how to fetch it; the defaults are the official recipe's.

    Raises TCLError if `format`, `columns`, `min_success` or a size makes no sense.
    """

    name: str
    annotations: Path
    format: str = "tsv"
    columns: Columns = CAPTION_URL
    serve: Path | None = None
    """A folder that relative URLs point into; it is served on this machine while the download runs."""
    min_success: float = 0.0
    """Smallest share of the listed pairs that has to arrive; none at all is an error in any case."""
    image_size: int = 512
    """Pixels: with `resize_mode` "keep_ratio" the shorter side of larger images; smaller ones are kept as they are."""
    resize_mode: str = "keep_ratio"
    samples_per_shard: int = 10_000
    retries: int = 0
    timeout: int = 10
    """Seconds that a server may be silent; a whole image may take `tcl.pairs.bounded.PATIENCE` times as long."""
    stall: float = 600.0
    """Seconds without a byte written after which the download is held to hang."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise TCLError(f"{self.name}: format is one of {', '.join(FORMATS)}, not {self.format!r}.")
        self._check_columns()
        if not 0 <= self.min_success <= 1:
            raise TCLError(f"{self.name}: min_success is a share between 0 and 1, not {self.min_success}.")
        for key in ("image_size", "samples_per_shard", "timeout", "stall"):
            if getattr(self, key) <= 0:
                raise TCLError(f"{self.name}: {key} must be positive, not {getattr(self, key)}.")

    def _check_columns(self) -> None:
        url, caption = self.columns
        named = isinstance(url, str)
        rule = "two different names, or two different positions counted from 0"
        negative = any(isinstance(column, int) and column < 0 for column in self.columns)
        if url == caption or named != isinstance(caption, str) or negative:
            raise TCLError(f"{self.name}: columns must be {rule}, not url: {url!r}, caption: {caption!r}.")
        if self.format == "parquet" and not named:
            raise TCLError(f"{self.name}: columns of a parquet file go by name, not url: {url}, caption: {caption}.")
