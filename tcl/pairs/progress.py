"""How a download is getting on: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from tcl.pairs.stats import ShardStats

_EVERY_SECONDS = 60.0


class Progress:
    """Pairs tried of all, the share that arrived, the rate of this run, and the time left at that rate."""

    def __init__(self, name: str, pairs: int, before: ShardStats) -> None:
        """before: what earlier runs have done; it counts as done, but not for the rate."""
        self.name, self.pairs, self.before = name, pairs, before
        self.bar: tqdm[Any] = tqdm(
            total=pairs, initial=before.tried, desc=name, unit="pair", smoothing=0, disable=None, dynamic_ncols=True
        )
        self.started = self.told = time.monotonic()

    def show(self, total: ShardStats, unfinished: int) -> None:
        """total: of the finished shards. unfinished: bytes of the others, which show life before the first is done."""
        arrived = f"{total.succeeded / total.tried:.1%} arrived" if total.tried else "no shard finished yet"
        state = f"{arrived}, {unfinished / 1e6:,.0f} MB under way"
        if not self.bar.disable:
            self.bar.set_postfix_str(state, refresh=False)
            self.bar.update(total.tried - self.bar.n)
            self.bar.refresh()
        elif time.monotonic() - self.told > _EVERY_SECONDS:
            self.told = time.monotonic()
            print(self._line(total, state), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()

    def _line(self, total: ShardStats, state: str) -> str:
        return tqdm.format_meter(
            total.tried,
            self.pairs,
            time.monotonic() - self.started,
            prefix=self.name,
            unit="pair",
            initial=self.before.tried,
            postfix=state,
            ncols=0,
        )
