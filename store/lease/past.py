"""Lease files that fence nobody any more, and their removal by the owner of the store.

The file of an epoch is the fence of the one before: a former owner that wakes up, on a machine whose clock stood still too,
looks for nothing else.  So `epoch-<n>` goes only when the owner of n - 1 can promise nothing any more and neither can the one
of n: it released its lease, or is proved dead.  An absent file therefore speaks of an owner that is settled, and the rule holds for the next.
The newest stay in any case: who slept before its link(2) and takes a number that was tidied finds them, and stands down.
What recovery may ask about, epochs with segments or checkpoints, stays as well.
Tests: tests/unit/store/test_lease_past.py, tests/sim/test_lease.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container
from typing import Final

from store.files import FileSystem
from store.lease.directory import epoch_of, epoch_path, read_lease
from store.lease.host import Host

KEPT_MIN: Final = 16
"""Newest lease files that stay."""
READ_MAX: Final = 500
"""Files that one owner reads: each costs a round trip on shared storage."""


def remove_settled(
    files: FileSystem,
    folder: str,
    host: Host,
    own_epoch: int,
    used: Container[int],
    kept_min: int = KEPT_MIN,
) -> int:
    """Remove what fences nobody, older than our own; returns how many went.  Raises OSError, Fenced."""
    past = sorted(epoch for epoch in map(epoch_of, files.listdir(folder)) if 0 < epoch < own_epoch)
    candidates = past[: max(0, len(past) - kept_min)]
    if len(candidates) > READ_MAX:
        # Another part each time: the oldest may be of owners of whom nobody can say that they are dead.
        start = own_epoch * READ_MAX % len(candidates)
        candidates = (candidates[start:] + candidates[:start])[:READ_MAX]
    present = set(past)
    settled: dict[int, bool] = {}

    def is_settled(epoch: int) -> bool:
        if epoch not in present:
            return True
        if epoch not in settled:
            block = read_lease(files, folder, epoch).latest
            settled[epoch] = block is not None and (block.is_released or host.is_dead(block.owner))
        return settled[epoch]

    count = 0
    for epoch in candidates:
        if epoch not in used and is_settled(epoch) and is_settled(epoch - 1):
            with contextlib.suppress(FileNotFoundError):
                files.unlink(epoch_path(folder, epoch))
                count += 1
    return count
