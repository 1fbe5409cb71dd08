"""What the folder can do, and whether the terms fit it."""

import errno

import pytest

from store.lease.directory import Terms
from store.lease.survey import (
    Mount,
    Trial,
    fitting_margin,
    mount_of,
    objections,
    try_folder,
    warnings,
)
from tests.support.disk import SimulatedDisk

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /data/my\\040store rw shared:2 - nfs4 server:/x rw,vers=4.2,acdirmax=30,hard
41 22 0:51 / /data/fast rw shared:3 - nfs server:/y rw,lookupcache=positive
42 22 0:52 / /data/odd rw - fuse.sshfs me@there:/ rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "lag"),
    [
        ("/srv/x", "ext4", 0.0),
        ("/data/my store/broker", "nfs4", 30.0),
        ("/data/fast", "nfs", 0.0),
        ("/data/faster", "ext4", 0.0),
        ("/data/odd/a", "fuse.sshfs", 0.0),
    ],
)
def test_the_mount_of_a_path(path, kind, lag):
    found = mount_of(path, MOUNTS)
    assert (found.kind, found.name_lag_seconds) == (kind, lag)


def test_nfs_without_options_remembers_absent_names_for_a_minute():
    assert Mount("nfs4", {}, "/x").name_lag_seconds == 60.0
    assert Mount("nfs4", {"noac": ""}, "/x").name_lag_seconds == 0.0


def tried(disk):
    return try_folder(disk, "/store/lease", lambda: 0.0)


def test_a_good_folder_lacks_nothing_and_is_left_clean():
    disk = SimulatedDisk(1)
    assert tried(disk).missing == [] and disk.paths() == []


def refuse(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_no_hard_links():
    disk = SimulatedDisk(1)
    disk.link = refuse
    assert tried(disk).missing == ["hard links (Operation not permitted)"]
    assert disk.paths() == []


def test_links_that_replace():
    disk = SimulatedDisk(1)
    link = disk.link

    def replace(source, target):
        if disk.exists(target):
            disk.unlink(target)
        link(source, target)

    disk.link = replace
    assert tried(disk).missing == ["hard links (one replaced a name that was taken)"]


def test_no_exclusive_creation():
    disk = SimulatedDisk(1)
    create = disk.create
    disk.create = lambda path: disk.open(path) if path in disk.paths() else create(path)
    assert any("exclusive" in one for one in tried(disk).missing)


def test_no_rename():
    disk = SimulatedDisk(1)
    disk.rename = refuse
    assert tried(disk).missing == ["renaming over a name (Operation not permitted)"]


def test_names_that_are_not_seen():
    disk = SimulatedDisk(1)
    disk.listdir = lambda path: []
    assert any("not listed" in one for one in tried(disk).missing)


def test_a_folder_we_may_not_write_to_is_an_error():
    disk = SimulatedDisk(1)
    disk.create = refuse
    with pytest.raises(PermissionError):
        tried(disk)


def test_a_margin_is_chosen_when_none_is_given():
    assert fitting_margin(Terms(5.0, 0.0, 0.01)).margin_seconds == 0.5
    assert fitting_margin(Terms(5.0, 0.0, 0.2)).margin_seconds == 1.0
    assert objections(fitting_margin(Terms(5.0, 0.0, 0.2))) == []


@pytest.mark.parametrize("has_rule", [True, False])
def test_trap_2_a_margin_below_what_the_clocks_need_is_refused(has_rule):
    """With the rule off, (D - margin)(1 + drift) > D: both confirm."""
    terms = Terms(5.0, 0.2 if not has_rule else 0.5, 0.1)
    assert (objections(terms) == []) is has_rule
    assert ((terms.duration_seconds - terms.margin_seconds) * 1.1 <= 5.0) is has_rule


def test_a_margin_as_long_as_the_lease_is_refused():
    assert "leaves nothing" in objections(Terms(5.0, 5.0, 0.01))[0]


def test_what_an_operator_should_know():
    trial = Trial()
    terms = Terms(5.0, 0.5, 0.01)
    assert warnings(terms, Mount("ext4", {}, "/"), trial) == []
    assert "lookupcache=positive" in warnings(terms, Mount("nfs4", {}, "/x"), trial)[0]
    assert "fuse.sshfs" in warnings(terms, Mount("fuse.sshfs", {}, "/x"), trial)[0]
    trial.slowest_seconds = 2.0
    assert "longer lease" in warnings(terms, Mount("ext4", {}, "/"), trial)[0]
