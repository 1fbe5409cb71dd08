"""The folder of a store: its subfolders, its FORMAT file, and the names in it.

Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

import secrets
from typing import Final, final

from store.checkpoint import checkpoint_of_name, write_file
from store.checksum import crc32
from store.errors import Corrupt, StoreError, VersionMismatch
from store.files import FileSystem
from store.segment import NUMBER_BITS, segment_of_name

FORMAT_NAME: Final = "FORMAT"
SALVAGE_MARK: Final = "salvage"
"""Lies in the folder from the begin to the end of a salvage."""
FORMAT_VERSION: Final = 2
_FORMAT_WORD: Final = "gridmsg-store"


@final
class Layout:
    """Paths of a store."""

    __slots__ = ("checkpoints", "files", "folder", "lease", "reserve", "segments")

    def __init__(self, files: FileSystem, folder: str) -> None:
        self.files = files
        self.folder = folder
        self.segments = f"{folder}/segments"
        self.checkpoints = f"{folder}/checkpoints"
        self.lease = f"{folder}/lease"
        self.reserve = f"{folder}/reserve"

    def make_folders(self) -> None:
        """Make what is missing and sync the names.  Raises StoreError when we may not write here."""
        try:
            is_new = not self.files.exists(self.folder)
            for path in (self.folder, self.segments, self.checkpoints, self.lease):
                self.files.make_folder(path)
            self.files.sync_folder(self.folder)
            if is_new:
                self.files.sync_folder(self.folder.rpartition("/")[0] or "/")
        except PermissionError as error:
            raise StoreError(
                f"no permission to write to the store folder {self.folder}: "
                "make it belong to the user that runs the broker, or choose another folder"
            ) from error

    def check_format(self) -> None:
        """Refuse a folder that is no store of ours, before anything is written to it.  Raises VersionMismatch, Corrupt, StoreError."""
        if self.files.exists(f"{self.folder}/{SALVAGE_MARK}"):
            raise StoreError(
                f"a salvage of {self.folder} was not finished: let it, with `gridmsg store salvage`"
            )
        # Listed first: another may be making the store at this moment, and FORMAT comes before the rest.
        has_more = bool(self.segment_ids() or self.checkpoint_ids())
        if self.files.exists(f"{self.folder}/{FORMAT_NAME}"):
            self.read_store_id()
        elif has_more:
            self._refuse_without_format()

    def _refuse_without_format(self) -> None:
        raise StoreError(
            f"{self.folder}/{FORMAT_NAME} is missing, but the folder holds segments or checkpoints: "
            "put the file back, or choose an empty folder"
        )

    def store_id(self) -> str:
        """Read FORMAT, or write it for a new store, which only its owner may.  Raises VersionMismatch, Corrupt, StoreError."""
        path = f"{self.folder}/{FORMAT_NAME}"
        if self.files.exists(path):
            # What only the cache of a former owner's host knows is not built upon.
            self.files.sync_folder(self.folder)
            return self._read_format(path)
        store_id = secrets.token_hex(16)
        text = f"{_FORMAT_WORD} {FORMAT_VERSION}\nid {store_id}\n"
        text += f"crc {crc32(text.encode()):08x}\n"
        # A draft of its own: a former owner may be at the same.
        draft = write_file(self.files, self.folder, f"{FORMAT_NAME}-{store_id}", [text.encode()])
        self.files.rename(draft, path)
        self.files.sync_folder(self.folder)
        return store_id

    def read_store_id(self) -> str:
        """Read FORMAT.  Raises VersionMismatch, Corrupt, StoreError."""
        path = f"{self.folder}/{FORMAT_NAME}"
        if not self.files.exists(path):
            raise StoreError(f"{self.folder} is not a store: it has no {FORMAT_NAME} file")
        return self._read_format(path)

    def _read_format(self, path: str) -> str:
        text, mark, crc = self.files.read_whole(path).decode("utf-8", "replace").rpartition("crc ")
        lines = text.splitlines()
        if not mark or len(lines) < 2 or f"{crc32(text.encode()):08x}\n" != crc:
            raise Corrupt(path, 0, "the FORMAT file fails its checksum; restore it from a backup")
        word, _, version = lines[0].partition(" ")
        if word != _FORMAT_WORD or version != str(FORMAT_VERSION):
            raise VersionMismatch(
                f"{path} says {lines[0]!r}, this program reads {_FORMAT_WORD} {FORMAT_VERSION}: "
                f"{_advice(word, version)}"
            )
        return lines[1].partition(" ")[2]

    def segment_ids(self) -> list[int]:
        """All segments in the folder, ascending."""
        return sorted(
            id
            for name in self.files.listdir(self.segments)
            if name.endswith(".seg") and (id := segment_of_name(name)) is not None
        )

    def sidecar_names(self, segment: int) -> list[str]:
        """The sidecars of a segment, whoever wrote them."""
        return [
            name
            for name in self.files.listdir(self.segments)
            if name.endswith(".idx") and segment_of_name(name) == segment
        ]

    def highest_epoch(self) -> int:
        """The highest epoch that a segment or checkpoint carries in its name; 0 when there is none."""
        epochs = [id >> NUMBER_BITS for id in self.segment_ids()]
        epochs += [epoch for epoch, _ in self.checkpoint_ids()]
        return max(epochs, default=0)

    def give_up_reserve(self) -> bool:
        """Free the space that was kept for a full disk; False if it was freed before."""
        if not self.files.exists(self.reserve):
            return False
        self.files.unlink(self.reserve)
        return True

    def checkpoint_ids(self) -> list[tuple[int, int]]:
        """(epoch, number) of all checkpoints, ascending."""
        names = (checkpoint_of_name(name) for name in self.files.listdir(self.checkpoints))
        return sorted(found for found in names if found is not None)


def _advice(word: str, version: str) -> str:
    """What to do with a store of another version."""
    if word == _FORMAT_WORD and version.isdecimal() and int(version) < FORMAT_VERSION:
        return (
            "an older gridmsg wrote it; start that one, let consumers empty its queues, "
            "then start this one on another folder"
        )
    return "start the version that wrote it (a newer gridmsg), or choose another folder"
