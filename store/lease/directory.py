"""The lease in the store's own folder: `lease/epoch-<n>`, one file for each ownership; `past.py` says when it goes.

A claim is a complete, synced file that gets its name by link(2) from a draft in the same folder.  The claim id read
back says who won, never what link answered.  Tests: tests/unit/store/test_lease_directory.py, tests/sim/test_lease.py.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from store.errors import Fenced, Full, StoreError
from store.files import FileSystem
from store.lease.block import (
    BLOCK_BYTES,
    RENEWAL_OFFSET,
    Block,
    LeaseFile,
    decode_block,
    decode_file,
    encode_block,
    encode_file,
)
from store.lease.held import Lease
from store.lease.host import Host, boot_seconds
from store.lease.watch import Sight

_LOG: Final = logging.getLogger("store")
_NAME: Final = "epoch-"
_DRAFT: Final = "claim-"
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class InUse(StoreError):
    """Another process owns the store."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a lease lasts.  `margin_seconds` goes off its end for its owner; `drift` is how much two clocks may differ in speed."""

    duration_seconds: float = 5.0
    margin_seconds: float = 0.5
    drift: float = 0.01


def epoch_path(folder: str, epoch: int) -> str:
    """Give the path of an epoch's lease."""
    return f"{folder}/{_NAME}{epoch:06d}"


def highest_epoch(files: FileSystem, folder: str) -> int:
    """The highest epoch ever claimed in the folder; 0 when there was none."""
    return max(map(epoch_of, files.listdir(folder)), default=0)


def epoch_of(name: str) -> int:
    """The epoch of a lease file's name; 0 for other names."""
    number = name[len(_NAME) :]
    return int(number) if name.startswith(_NAME) and number.isdecimal() else 0


def read_lease(files: FileSystem, folder: str, epoch: int) -> LeaseFile:
    """Read an epoch's lease; a file that is missing says nothing, like a torn one.  Raises OSError."""
    try:
        return decode_file(files.read_whole(epoch_path(folder, epoch)))
    except FileNotFoundError:
        return LeaseFile(None, None)


@final
class DirectoryLedger:
    """The lease file of our epoch."""

    __slots__ = ("_claim", "_files", "_next_path", "_path")

    def __init__(self, files: FileSystem, folder: str, epoch: int, claim: str) -> None:
        self._files = files
        self._claim = claim
        self._path = epoch_path(folder, epoch)
        self._next_path = epoch_path(folder, epoch + 1)

    def write(self, block: Block) -> None:
        """Open anew, see that it is still ours, rewrite the second block, sync."""
        file = self._files.open(self._path, is_writable=True)
        try:
            found = decode_block(file.read(0, BLOCK_BYTES))
            if found is not None and found.claim != self._claim:
                raise Fenced(f"{self._path} is another's claim")
            file.write(RENEWAL_OFFSET, [encode_block(block)])
            file.sync()
        finally:
            file.close()

    def is_superseded(self) -> bool:
        """One stat."""
        return self._files.exists(self._next_path)


@final
class DirectoryLocker:
    """Looks at the newest lease of a folder, and claims the next."""

    __slots__ = (
        "_addresses",
        "_claims",
        "_clock",
        "_files",
        "_floor",
        "_folder",
        "_host",
        "_make_room",
        "_new_claim",
        "_terms",
        "_used_epoch",
    )

    def __init__(
        self,
        files: FileSystem,
        folder: str,
        host: Host,
        terms: Terms,
        used_epoch: Callable[[], int],
        *,
        addresses: str = "",
        make_room: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = boot_seconds,
        new_claim: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._files = files
        self._folder = folder
        self._host = host
        self._terms = terms
        self._used_epoch = used_epoch
        self._addresses = addresses
        self._make_room = make_room
        self._clock = clock
        self._new_claim = new_claim
        # Claims of ours of which we never learned whether they won.
        self._claims: set[str] = set()
        # An epoch that segments or checkpoints know, whatever became of its lease.
        self._floor = 0

    def look(self) -> Sight:
        """Read the newest lease anew.  Raises OSError."""
        started_at = self._clock()
        epoch = max(highest_epoch(self._files, self._folder), self._floor)
        file = read_lease(self._files, self._folder, epoch) if epoch else None
        returned_at = self._clock()
        block = file.latest if file is not None else None
        if block is not None and not block.is_released and block.claim in self._claims:
            self._release_stray(block)
        is_dead = block is not None and self._host.is_dead(block.owner)
        return Sight(epoch, file, is_dead, started_at, returned_at)

    def claim(self, sight: Sight) -> Lease | None:
        """Claim the epoch after the one that was judged; None when another was faster.  Raises OSError, Full."""
        files, folder = self._files, self._folder
        started_at = self._clock()
        self._floor = max(self._floor, self._used_epoch())
        # Never one after an epoch that came since: its owner may be well.
        if max(highest_epoch(files, folder), self._floor) > sight.epoch:
            return None
        epoch = sight.epoch + 1
        claim = self._new_claim()
        duration = self._terms.duration_seconds
        block = Block(epoch, claim, self._host.identity(), duration, self._addresses)
        self._claims.add(claim)
        refusal = self._link(block)
        found = read_lease(files, folder, epoch).latest
        if found is None and refusal is not None:
            # It may still turn up; then it is released.
            raise refusal
        if found is None or found.claim != claim:
            return None
        files.sync_folder(folder)
        ledger = DirectoryLedger(files, folder, epoch, claim)
        lease = Lease(ledger, block, self._clock, self._terms.margin_seconds, started_at)
        if highest_epoch(files, folder) > epoch:
            # We slept before the link, and the world went on.
            lease.release()
            self._claims.discard(claim)
            return None
        self._claims.discard(claim)
        return lease

    def _link(self, block: Block) -> OSError | None:
        files = self._files
        draft = f"{self._folder}/{_DRAFT}{block.claim}"
        try:
            self._write_draft(draft, block)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            if not self._make_room():
                raise Full(f"no space for a lease in {self._folder}: free some") from error
            self._write_draft(draft, block)
        try:
            files.link(draft, epoch_path(self._folder, block.epoch))
        except OSError as error:
            # NFS may refuse the winner: only the claim read back counts.
            return error
        finally:
            with contextlib.suppress(OSError):
                files.unlink(draft)
        return None

    def _write_draft(self, draft: str, block: Block) -> None:
        file = self._files.create(draft)
        try:
            file.write(0, [encode_file(block)])
            file.sync()
        except OSError:
            with contextlib.suppress(OSError):
                self._files.unlink(draft)
            raise
        finally:
            file.close()

    def _release_stray(self, block: Block) -> None:
        _LOG.warning("a claim of epoch %d turned up late: it is released", block.epoch)
        block.is_released = True
        block.counter += 1
        DirectoryLedger(self._files, self._folder, block.epoch, block.claim).write(block)
        self._claims.discard(block.claim)


def claim_lease(
    files: FileSystem,
    folder: str,
    host: Host,
    used_epoch: int,
    make_room: Callable[[], bool] = lambda: False,
) -> Lease:
    """Claim the next epoch for good, without renewal.  Raises InUse unless the former owner released it or is proved dead."""
    terms = Terms(duration_seconds=0.0, margin_seconds=0.0)
    locker = DirectoryLocker(files, folder, host, terms, lambda: used_epoch, make_room=make_room)
    sight = locker.look()
    block = sight.block
    # Torn as a whole: its owner died before it promised anything.
    if block is not None and not block.is_released and not sight.is_proved_dead:
        path = epoch_path(folder, sight.epoch)
        raise InUse(
            f"the store is in use by process {block.owner.pid} on host {block.owner.host} ({path}); "
            "stop it first; with a locker other than none, a broker started here becomes its standby"
        )
    if sight.epoch < used_epoch:
        # Its lease is gone, as in a folder restored from a backup.
        sight = Sight(used_epoch, None, False, sight.started_at, sight.returned_at)
    lease = locker.claim(sight)
    if lease is None:
        raise InUse(f"another process claimed the store at the same time, in {folder}")
    return lease
