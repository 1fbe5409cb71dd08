"""A lease file's content: the same small text twice, as claimed and as last renewed.

The first block is written once, before the file gets its name; the second in place, with a higher counter each time, on a
page of its own: a torn renewal leaves who owns the lease, and for how long, readable.  Layout: FORMAT.md.
Tests: tests/unit/store/test_lease_block.py.
"""

from __future__ import annotations

from typing import Final, final

from store.checksum import crc32
from store.lease.host import Identity

LEASE_MAGIC: Final = "gridmsg-lease 1"
BLOCK_BYTES: Final = 1024
RENEWAL_OFFSET: Final = 4096
ADDRESSES_CHARS_MAX: Final = 300
_NAME_CHARS_MAX: Final = 100
OWNED: Final = "owned"
RELEASED: Final = "released"


@final
class Block:
    """What an owner says of itself.  `duration_seconds` 0: the lease is not renewed."""

    __slots__ = (
        "addresses",
        "claim",
        "counter",
        "durable_batch",
        "duration_seconds",
        "epoch",
        "is_opened",
        "is_released",
        "owner",
    )

    def __init__(
        self,
        epoch: int,
        claim: str,
        owner: Identity,
        duration_seconds: float = 0.0,
        addresses: str = "",
    ) -> None:
        self.epoch = epoch
        self.claim = claim
        self.owner = owner
        self.duration_seconds = duration_seconds
        self.addresses = addresses
        self.counter = 0
        self.is_opened = False
        self.durable_batch = 0
        self.is_released = False


def encode_block(block: Block) -> bytes:
    """Give the block's bytes, BLOCK_BYTES of them."""
    owner = block.owner
    lines = [
        LEASE_MAGIC,
        f"epoch {block.epoch}",
        f"claim {block.claim}",
        f"host {_plain(owner.host, _NAME_CHARS_MAX)}",
        f"pid {owner.pid}",
        f"start {owner.start_time}",
        f"boot {_plain(owner.boot_id, _NAME_CHARS_MAX)}",
        f"namespace {_plain(owner.namespace, _NAME_CHARS_MAX)}",
        f"duration-ms {round(block.duration_seconds * 1000)}",
        f"addresses {_plain(block.addresses, ADDRESSES_CHARS_MAX)}",
        f"counter {block.counter}",
        f"opened {int(block.is_opened)}",
        f"durable {block.durable_batch}",
        f"state {RELEASED if block.is_released else OWNED}",
    ]
    text = "\n".join(lines) + "\n"
    raw = f"{text}crc {crc32(text.encode()):08x}\n".encode()
    return raw.ljust(BLOCK_BYTES, b"\0")


def decode_block(raw: bytes) -> Block | None:
    """Read a block; None unless it is whole."""
    text, mark, crc = raw.rstrip(b"\0").decode("utf-8", "replace").rpartition("crc ")
    if not mark or f"{crc32(text.encode()):08x}\n" != crc:
        return None
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        fields[key] = value
    try:
        owner = Identity(
            fields["host"],
            int(fields["pid"]),
            fields["start"],
            fields["boot"],
            fields["namespace"],
        )
        block = Block(
            int(fields["epoch"]),
            fields["claim"],
            owner,
            int(fields.get("duration-ms", "0")) / 1000,
            fields.get("addresses", ""),
        )
        block.counter = int(fields.get("counter", "0"))
        block.is_opened = fields.get("opened") == "1"
        block.durable_batch = int(fields.get("durable", "0"))
        block.is_released = fields["state"].strip() == RELEASED
    except (KeyError, ValueError):
        return None
    return block


def encode_file(block: Block) -> bytes:
    """Give the whole file as it is claimed."""
    raw = encode_block(block)
    return raw.ljust(RENEWAL_OFFSET, b"\0") + raw


@final
class LeaseFile:
    """A lease file as read: who claimed it, and the last renewal; each None when torn or damaged."""

    __slots__ = ("claimed", "renewed")

    def __init__(self, claimed: Block | None, renewed: Block | None) -> None:
        self.claimed = claimed
        self.renewed = renewed

    @property
    def latest(self) -> Block | None:
        """The best that is known of the owner."""
        return self.renewed or self.claimed


def decode_file(raw: bytes) -> LeaseFile:
    """Read both blocks."""
    claimed = decode_block(raw[:BLOCK_BYTES])
    renewed = decode_block(raw[RENEWAL_OFFSET : RENEWAL_OFFSET + BLOCK_BYTES])
    if claimed is not None and renewed is not None and claimed.claim != renewed.claim:
        renewed = None
    return LeaseFile(claimed, renewed)


def is_lease_intact(raw: bytes) -> bool:
    """Whether a lease file is whole, to the byte."""
    found = decode_file(raw)
    return (
        found.claimed is not None
        and found.renewed is not None
        and len(raw) == RENEWAL_OFFSET + BLOCK_BYTES
        and not any(raw[BLOCK_BYTES:RENEWAL_OFFSET])
    )


def _plain(text: str, chars_max: int) -> str:
    """A text that cannot break out of its line."""
    return "".join(c if c.isprintable() else "?" for c in text)[:chars_max]
