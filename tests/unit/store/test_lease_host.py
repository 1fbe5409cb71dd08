"""Who is dead: proved by the process table of the same boot and pid namespace, or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from store.lease.host import Identity, ProcFolder, RealHost, boot_seconds


class Table:
    """A process table: pid → (state, start time, tasks), None for what /proc hides."""

    def __init__(self, rows):
        self.rows = rows

    def exists(self, pid):
        return pid in self.rows

    def stat(self, pid):
        row = self.rows.get(pid)
        return (row[0], row[1]) if row else ("", "")

    def task_count(self, pid):
        row = self.rows.get(pid)
        return row[2] if row else 0


OWNER = Identity("host", 7, "100", "boot", "pid:[1]")


def host(rows, **changes):
    known = {"name": "host", "boot_id": "boot", "namespace": "pid:[1]", **changes}
    return RealHost(processes=Table(rows), **known)


@pytest.mark.parametrize(
    ("rows", "is_dead"),
    [
        ({}, True),
        ({7: ("S", "100", 1)}, False),
        ({7: ("D", "100", 3)}, False),
        ({7: ("S", "999", 1)}, True),
        ({7: ("Z", "100", 1)}, True),
        ({7: ("Z", "100", 2)}, False),
        ({7: ("Z", "100", 0)}, False),
        ({7: None}, False),
    ],
    ids="gone living waiting reused zombie zombie-with-tasks zombie-unread hidden".split(),
)
def test_the_process_table_decides(rows, is_dead):
    assert host(rows).is_dead(OWNER) is is_dead


@pytest.mark.parametrize(
    "changes", [{"boot_id": "other"}, {"namespace": "pid:[2]"}, {"boot_id": ""}, {"namespace": ""}]
)
def test_trap_10_no_such_pid_here_proves_nothing_elsewhere(changes):
    """Two containers, one kernel; or two hosts of one name: another boot id is not a reboot."""
    assert not host({}, **changes).is_dead(OWNER)


def test_an_owner_of_which_nothing_is_known_is_not_dead():
    assert not host({}).is_dead(Identity("host", 0, "", "boot", "pid:[1]"))
    assert not host({7: ("S", "100", 1)}).is_dead(Identity("host", 7, "", "boot", "pid:[1]"))


def test_this_process_is_alive_and_a_child_that_ended_is_dead():
    here = RealHost()
    assert not here.is_dead(here.identity())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = here.identity()
    owner = Identity(me.host, child.pid, ProcFolder().stat(child.pid)[1], me.boot_id, me.namespace)
    assert not here.is_dead(owner)
    child.send_signal(signal.SIGKILL)
    # Not waited for: a zombie is dead.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert here.is_dead(owner)
    child.wait()
    assert here.is_dead(owner)


def test_the_clock_goes_forward():
    assert boot_seconds() <= boot_seconds()
