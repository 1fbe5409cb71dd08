"""What the shared file system can do, tried at start, and whether the lease's terms fit it: in words.

`try_folder` tries in the lease's own folder; `look_at_mount` reads the mount's kind and options; `judge` holds the
inequalities of docs/failover.md.  What cannot be tried (that the server syncs what it acknowledges) is documented there.
Tests: tests/unit/store/test_lease_survey.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from typing import Final, final

from store.files import FileSystem
from store.lease.directory import Terms

NFS_NAME_SECONDS: Final = 60.0
"""How long an NFS client may remember that a name does not exist (acdirmax), by default."""
_LOCAL: Final = frozenset(
    [
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "tmpfs",
        "overlay",
        "bcachefs",
        "jfs",
        "reiserfs",
        "apfs",
        "hfs",
        "ufs",
    ]
)
_CLUSTER: Final = frozenset(["gfs2", "ocfs2", "gpfs", "lustre", "ceph", "beegfs"])
_NFS: Final = frozenset(("nfs", "nfs4"))


@final
class Mount:
    """A mount's kind and options."""

    __slots__ = ("kind", "options", "point")

    def __init__(self, kind: str, options: dict[str, str], point: str) -> None:
        self.kind = kind
        self.options = options
        self.point = point

    @property
    def is_known(self) -> bool:
        """Whether we know how its caches behave."""
        return self.kind in _LOCAL or self.kind in _CLUSTER or self.kind in _NFS

    @property
    def name_lag_seconds(self) -> float:
        """How long a name that is new may still look absent."""
        if self.kind not in _NFS:
            return 0.0
        options = self.options
        if options.get("lookupcache") in ("positive", "pos", "none") or "noac" in options:
            return 0.0
        text = options.get("acdirmax") or options.get("actimeo") or ""
        return float(text) if text.isdecimal() else NFS_NAME_SECONDS


def mount_of(path: str, mountinfo: str) -> Mount:
    """Find the mount of an absolute path in the text of /proc/self/mountinfo."""
    found = Mount("unknown", {}, "")
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if "-" not in fields[6:]:
            continue
        split = fields.index("-", 6)
        point = fields[4].replace("\\040", " ")
        is_inside = path == point or path.startswith(point.rstrip("/") + "/")
        # The last mount of a point lies on top.
        if is_inside and len(point) >= len(found.point):
            texts = f"{fields[5]},{fields[split + 3] if len(fields) > split + 3 else ''}".split(",")
            options = {key: value for key, _, value in (one.partition("=") for one in texts) if key}
            found = Mount(fields[split + 1], options, point)
    return found


def look_at_mount(files: FileSystem, folder: str) -> Mount:
    """The mount that a folder lies on; "unknown" where the system does not tell."""
    try:
        text = files.read_whole("/proc/self/mountinfo").decode("utf-8", "replace")
    except OSError:
        return Mount("unknown", {}, "")
    return mount_of(os.path.realpath(folder), text)


@final
class Trial:
    """What was tried: what cannot be done, and the slowest sync."""

    __slots__ = ("missing", "slowest_seconds")

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.slowest_seconds = 0.0


def try_folder(
    files: FileSystem,
    folder: str,
    clock: Callable[[], float],
    new_token: Callable[[], str] = lambda: secrets.token_hex(8),
) -> Trial:
    """Try hard link, rename, exclusive creation and visibility in a folder.  Raises OSError when we may not write there."""
    trial = Trial()
    start = f"{folder}/probe-{new_token()}"
    first, second, third = f"{start}-a", f"{start}-b", f"{start}-c"
    try:
        _try_creation(files, first, trial, clock)
        _try_link(files, first, second, trial)
        _try_rename(files, first, third, trial)
        started_at = clock()
        files.sync_folder(folder)
        trial.slowest_seconds = max(trial.slowest_seconds, clock() - started_at)
    finally:
        for path in (first, second, third):
            with contextlib.suppress(OSError):
                files.unlink(path)
    return trial


def _try_creation(files: FileSystem, path: str, trial: Trial, clock: Callable[[], float]) -> None:
    file = files.create(path)
    try:
        file.write(0, [b"first"])
        started_at = clock()
        file.sync()
        trial.slowest_seconds = max(trial.slowest_seconds, clock() - started_at)
    finally:
        file.close()
    try:
        files.create(path).close()
        trial.missing.append("exclusive creation (a name was made twice)")
    except FileExistsError:
        pass
    # Written in place by one opening, read by another.
    file = files.open(path, is_writable=True)
    try:
        file.write(0, [b"again"])
        file.sync()
    finally:
        file.close()
    if files.read_whole(path) != b"again":
        trial.missing.append("visibility (what was written is not what is read)")


def _try_link(files: FileSystem, path: str, target: str, trial: Trial) -> None:
    try:
        files.link(path, target)
    except OSError as error:
        trial.missing.append(f"hard links ({error.strerror or error})")
        return
    if not files.exists(target) or files.read_whole(target) != b"again":
        trial.missing.append("visibility (a new name is not seen, or without its content)")
    if target.rpartition("/")[2] not in files.listdir(target.rpartition("/")[0]):
        trial.missing.append("visibility (a new name is not listed)")
    try:
        files.link(path, target)
        trial.missing.append("hard links (one replaced a name that was taken)")
    except FileExistsError:
        pass


def _try_rename(files: FileSystem, path: str, target: str, trial: Trial) -> None:
    files.create(target).close()
    try:
        files.rename(path, target)
    except OSError as error:
        trial.missing.append(f"renaming over a name ({error.strerror or error})")
        return
    if files.exists(path) or files.read_whole(target) != b"again":
        trial.missing.append("renaming (both names, or the wrong content, are seen)")


def fitting_margin(terms: Terms) -> Terms:
    """The terms with a margin where none was given: a tenth of the lease, or what the clocks need if that is more."""
    duration, drift = terms.duration_seconds, terms.drift
    margin = terms.margin_seconds or max(0.1 * duration, drift * duration)
    return Terms(duration, margin, drift)


def objections(terms: Terms) -> list[str]:
    """Why these terms cannot keep two owners apart; empty when they can."""
    duration, margin, drift = terms.duration_seconds, terms.margin_seconds, terms.drift
    found = []
    if margin >= duration:
        found.append(f"margin {margin:g} s leaves nothing of the lease of {duration:g} s")
    # (D - margin)(1 + drift) + V <= D, with V = 0: a lease is always opened anew.
    elif (duration - margin) * (1 + drift) > duration:
        found.append(
            f"margin {margin:g} s is too small: with clocks that differ by {drift:.1%} an owner may think its lease of "
            f"{duration:g} s valid {(duration - margin) * (1 + drift) - duration:.3f} s longer than others do; "
            f"margin {drift * duration:g} s at least"
        )
    return found


def warnings(terms: Terms, mount: Mount, trial: Trial) -> list[str]:
    """What an operator should know: the store is safe, but not everything else is as good as it could be."""
    duration, margin = terms.duration_seconds, terms.margin_seconds
    found = []
    lag = mount.name_lag_seconds
    if lag:
        found.append(
            f"{mount.point} ({mount.kind}) remembers absent names for up to {lag:g} s: a paused virtual machine whose clock "
            "stood still would not see at once that it was followed; mount it with lookupcache=positive"
        )
    if not mount.is_known:
        found.append(
            f"how {mount.kind} at {mount.point or 'this place'} caches names is not known: whether a new name is seen on "
            "all hosts at once cannot be tried from one"
        )
    if duration / 4 + 2 * trial.slowest_seconds >= duration - margin:
        found.append(
            f"a sync took {trial.slowest_seconds:.2f} s: two such in a row and a lease of {duration:g} s is lost; "
            "a longer lease fits this storage better"
        )
    return found
