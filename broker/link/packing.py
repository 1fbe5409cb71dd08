"""Compression of a link's batches: zstd where both ends have it, else zlib, which is in Python.

zstd is the optional package `zstandard` (`pip install gridmsg[zstd]`).  The dialing end says what it has, the accepting one chooses.
A payload grows to FRAME_BYTES_MAX at most, whatever it claims.  Tests: tests/unit/broker/link/test_packing.py.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Protocol, final

from broker.errors import ProtocolViolation
from broker.link.frames import FRAME_BYTES_MAX

# By name: type checkers need not have it either.
zstandard: Any = None
with suppress(ImportError):
    zstandard = import_module("zstandard")

PACK_BYTES_MIN: Final = 512
TRY_AGAIN_BATCHES: Final = 64
"""How often compression is tried anew when it was not worth it."""
CUT_OFF: Final = "a packed frame is cut off, or larger than a frame may be"


class Codec(Protocol):
    """A way to compress; ends agree on it by its name."""

    name: str

    @abstractmethod
    def squeeze(self, payload: bytes) -> bytes:
        """Compress a payload."""

    @abstractmethod
    def expand(self, payload: bytes) -> bytes:
        """Undo `squeeze`; raises ProtocolViolation, also for what grows beyond FRAME_BYTES_MAX."""


@final
class Zlib:
    """Its quickest level."""

    name = "zlib"

    def squeeze(self, payload: bytes) -> bytes:
        """Compress a payload."""
        return zlib.compress(payload, 1)

    def expand(self, payload: bytes) -> bytes:
        """Undo `squeeze`; raises ProtocolViolation."""
        inflater = zlib.decompressobj()
        try:
            raw = inflater.decompress(payload, FRAME_BYTES_MAX)
        except zlib.error as error:
            raise ProtocolViolation(f"a packed frame makes no sense: {error}") from None
        if inflater.unconsumed_tail or inflater.unused_data or not inflater.eof:
            raise ProtocolViolation(CUT_OFF)
        return raw


@final
class Zstd:
    """Level 1."""

    name = "zstd"

    def __init__(self) -> None:
        self._compressor: Any = zstandard.ZstdCompressor(level=1)
        self._decompressor: Any = zstandard.ZstdDecompressor(max_window_size=FRAME_BYTES_MAX)

    def squeeze(self, payload: bytes) -> bytes:
        """Compress a payload."""
        packed: bytes = self._compressor.compress(payload)
        return packed

    def expand(self, payload: bytes) -> bytes:
        """Undo `squeeze`; raises ProtocolViolation."""
        try:
            # What it claims is allocated before it is read.
            size_bytes = zstandard.frame_content_size(payload)
            if not 0 <= size_bytes <= FRAME_BYTES_MAX:
                raise ProtocolViolation(CUT_OFF)
            raw: bytes = self._decompressor.decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ProtocolViolation(f"a packed frame makes no sense: {error}") from None
        return raw


@final
class Packing:
    """How one end packs its batches.

    `mode`: none, always, or auto: while the socket is the limit (`is_pressed`), and what was tried last became a third less.
    `codec`: what both ends agreed on, used or not.
    """

    __slots__ = ("_batch_count", "_is_worth", "codec", "is_pressed", "mode")

    def __init__(self) -> None:
        self.mode = "none"
        self.codec: Codec = Zlib()
        self.is_pressed = False
        self._is_worth = True
        self._batch_count = 0

    def squeeze(self, payload: bytes) -> bytes | None:
        """Compress a batch, or say None: it goes as it is."""
        if self.mode == "none" or len(payload) <= PACK_BYTES_MIN:
            return None
        self._batch_count += 1
        if self.mode == "auto":
            if not self.is_pressed:
                return None
            if not self._is_worth and self._batch_count % TRY_AGAIN_BATCHES:
                return None
        packed = self.codec.squeeze(payload)
        self._is_worth = len(packed) * 3 < len(payload) * 2
        self.is_pressed = False
        return packed if len(packed) < len(payload) else None

    def describe(self) -> str:
        """How batches are compressed, where they are."""
        return "none" if self.mode == "none" else f"{self.mode}, {self.codec.name}"


def known_codecs() -> list[str]:
    """What this end can, the best first."""
    return ["zstd", "zlib"] if zstandard is not None else ["zlib"]


def choose_codec(offered: object) -> str:
    """The best that both ends can; everybody can zlib."""
    return next(
        (one for one in known_codecs() if isinstance(offered, list) and one in offered), "zlib"
    )


def make_codec(name: object) -> Codec:
    """The codec of a name; raises ProtocolViolation for one that this end did not offer."""
    if name not in known_codecs():
        raise ProtocolViolation(f"compression by {str(name)[:50]!r}, which was not offered")
    return Zstd() if name == "zstd" else Zlib()
