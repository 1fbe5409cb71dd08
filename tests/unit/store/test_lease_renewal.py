"""The watchdog: says that the guard closed, and ends what does not let go.  Threads, with events instead of sleeps."""

import threading

from store.lease.block import Block
from store.lease.held import Lease
from store.lease.host import Identity
from store.lease.renewal import Renewer, Watchdog
from tests.support.waiting import PATIENCE_SECONDS


class Ledger:
    def __init__(self):
        self.counters = []
        self.is_written = threading.Event()

    def write(self, block):
        self.counters.append(block.counter)
        self.is_written.set()

    def is_superseded(self):
        return False


def make(now):
    block = Block(1, "c", Identity("h", 1, "1", "b", "n"), 0.02)
    ledger = Ledger()
    return ledger, Lease(ledger, block, lambda: now[0], 0.002, now[0])


def test_a_process_that_does_not_let_go_is_cut_and_ended():
    now = [0.0]
    _, lease = make(now)
    told, ended = [], threading.Event()
    order = []

    def end(reason):
        order.append("end")
        ended.set()

    dog = Watchdog(lease, 0.001, told.append, lambda: order.append("cut"), end)
    dog.start()
    now[0] = 1.0
    assert ended.wait(PATIENCE_SECONDS)
    assert order == ["cut", "end"] and "ran out" in told[0]


def test_a_process_that_lets_go_lives():
    now = [0.0]
    _, lease = make(now)
    ended = []
    dog = Watchdog(
        lease, 2 * PATIENCE_SECONDS, lambda reason: dog.let_go(), lambda: None, ended.append
    )
    dog.start()
    now[0] = 1.0
    dog._thread.join(PATIENCE_SECONDS)
    assert not dog._thread.is_alive() and not ended


def test_the_renewer_renews_and_ends_with_the_lease():
    now = [0.0]
    ledger, lease = make(now)
    prodded = threading.Event()
    renewer = Renewer(lease, lambda: now[0], prodded.set)
    renewer.start()
    assert prodded.wait(PATIENCE_SECONDS)
    now[0] = 0.01
    assert ledger.is_written.wait(PATIENCE_SECONDS) and ledger.counters[0] == 1
    now[0] = 9.0
    renewer._thread.join(PATIENCE_SECONDS)
    assert not renewer._thread.is_alive()
