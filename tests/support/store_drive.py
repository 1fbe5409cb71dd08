"""Drives a store in tests: a box for its callbacks, messages made short, a journal that steps by hand."""

from __future__ import annotations

from store.interface import StoredMessage, UnitOfWork
from store.journal import Journal
from store.lease import Identity
from store.settings import StoreSettings
from store.writer import SteppedWriter

SMALL = StoreSettings(
    segment_bytes=32 * 1024,
    first_segment_bytes=16 * 1024,
    chunk_bytes=2048,
    checkpoint_bytes=16 * 1024,
    checkpoint_records=60,
    page_extents=4,
    cache_bytes=4096,
    open_segments=3,
    free_bytes_min=0,
    free_bytes_resume=0,
    reserve_bytes=8 * 1024,
    compact_bytes_min=96 * 1024,
    compact_group_bytes=1024,
)


class DeadHost:
    """A host on which every former owner is proved dead."""

    def identity(self) -> Identity:
        return Identity("host", 1, "1", "boot", "namespace")

    def is_dead(self, owner: Identity) -> bool:
        return True


class Box:
    """What the store told, in order."""

    def __init__(self) -> None:
        self.durable: list[int] = []
        self.failed: list[BaseException] = []
        self.blocked: list[bool] = []

    def post(self, call) -> None:
        call()


def message(body: bytes = b"body", header: bytes = b"header", **fields) -> StoredMessage:
    known = {"is_persistent": True, "priority": 4, "published_at": 1, "expires_at": 0, **fields}
    return StoredMessage("exchange", "key", 0, header, body, **known)


def unit(published=(), acknowledged=()) -> UnitOfWork:
    made = UnitOfWork()
    made.published += published
    made.acknowledged += acknowledged
    return made


def open_store(store, box: Box | None = None):
    box = box or Box()
    recovered = store.open(box.post, box.durable.append, box.failed.append, box.blocked.append)
    return recovered, box


class Stepped:
    """A journal on a disk, opened, with its writer in the test's hand."""

    def __init__(
        self,
        disk,
        folder: str = "/store",
        settings: StoreSettings = SMALL,
        salt: int | None = None,
    ) -> None:
        self.writer = SteppedWriter()
        salts = iter(range(disk.random.getrandbits(20) if hasattr(disk, "random") else 7, 1 << 32))
        self.journal = Journal(
            folder,
            settings,
            disk,
            writer=self.writer,
            host=DeadHost(),
            # An hour from one look to the next: nothing waits for the clock.
            clock=(3600.0 * hour for hour in range(1 << 40)).__next__,
            salt=lambda: next(salts) * 2654435761 & 0xFFFFFFFF if salt is None else salt,
        )
        self.recovered, self.box = open_store(self.journal)

    def step(self) -> None:
        self.writer.step()

    def settle(self) -> None:
        """Write all that waits, and run what waits beside it."""
        while self.journal._pending and self.journal.failure is None:
            self.writer.step()
        self.writer.run_jobs()
        self.writer.step()
        self.writer.run_jobs()
