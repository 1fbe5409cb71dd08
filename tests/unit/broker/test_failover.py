"""Between the lease and the process: what is told in the reactor's thread, and in which order."""

import pytest

from broker.failover import Failover
from broker.standby import Phase
from store.errors import Corrupt
from store.lease.block import Block
from store.lease.directory import Terms
from store.lease.held import Lease
from store.lease.host import Identity
from store.lease.watch import Sight


class Ledger:
    def __init__(self):
        self.is_released = False

    def write(self, block):
        self.is_released = block.is_released

    def is_superseded(self):
        return False


class Locker:
    """Gives the lease at the first try."""

    def __init__(self):
        self.ledger = Ledger()

    def look(self):
        return Sight(0, None, False, 0.0, 0.0)

    def claim(self, sight):
        block = Block(1, "c", Identity("h", 1, "1", "b", "n"), 600.0)
        return Lease(self.ledger, block, lambda: 0.0, 1.0, 0.0)


@pytest.fixture
def here():
    told = []
    locker = Locker()
    made = Failover(
        locker,
        Terms(600.0, 1.0, 0.0),
        lambda call, *rest: call(*rest),
        lambda lease: None,
        told.append,
        lambda: None,
    )
    made.told, made.ledger = told, locker.ledger
    yield made
    made.stop()


def test_it_serves_from_claim_to_stop(here):
    lease = here.claim_at_once()
    assert here.machine.phase is Phase.RECOVERING and lease.expected == ("opening",)
    here.opened(lambda: None)
    assert set(lease.expected) == {"writer", "reactor"}
    here.serving()
    assert here.is_open() and here.describe()["role"] == "active"
    here.stop()
    assert here.ledger.is_released and not here.is_open()


def test_a_closed_guard_is_told_once_and_the_lease_is_not_released(here):
    lease = here.claim_at_once()
    here.opened(lambda: None)
    here.serving()
    here.fence("taken over")
    here._closed(lease, "again")
    assert here.told == ["taken over"] and here.is_fenced and not here.is_open()
    here._stopping.set()
    here.let_go()
    assert (
        here.machine.phase is Phase.STANDBY and here.lease is None and not here.ledger.is_released
    )


def test_damage_releases_and_bars(here):
    here.claim_at_once()
    here._stopping.set()
    here.give_up(Corrupt("segment", 0, "broken"))
    assert here.ledger.is_released and here.machine.is_barred
    assert here.claim_at_once() is None, "it claims no more by itself"


def test_a_full_disk_releases_and_tries_again_later(here):
    here.claim_at_once()
    here._stopping.set()
    here.give_up(OSError(28, "No space left on device"))
    assert here.ledger.is_released and not here.machine.is_barred


def test_a_standby_that_cannot_look_any_more_ends_itself(monkeypatch):
    """A fault of ours, not of the disk: it would stand by for ever."""
    monkeypatch.setattr("broker.failover.LOOK_SECONDS", 0.0)
    looks, ended = [], []

    class Broken:
        def look(self):
            looks.append(1)
            raise OSError(5, "Input/output error") if len(looks) < 3 else ValueError("a fault")

    standby = Failover(Broken(), Terms(), None, None, None, None, ended.append)
    standby._contend()
    assert len(looks) == 3 and "a fault" in ended[0]
    assert standby.machine.reason == "[Errno 5] Input/output error"


def test_what_fails_again_and_again_is_said_once(monkeypatch, caplog):
    """Nobody is active and nobody can claim: the claim's draft has another name each time."""
    monkeypatch.setattr("broker.failover.LOOK_SECONDS", 0.0)
    looks = []

    class Unwritable:
        def look(self):
            looks.append(1)
            if len(looks) > 20:
                standby._stopping.set()
            return Sight(0, None, False, 0.0, 0.0)

        def claim(self, sight):
            raise PermissionError(1, "Operation not permitted", f"/store/lease/claim-{len(looks)}")

    standby = Failover(Unwritable(), Terms(), None, None, None, None, None)
    with caplog.at_level("INFO"):
        standby._contend()
    assert [record.getMessage() for record in caplog.records] == [
        "standby: epoch 0: never owned",
        "the lease cannot be read or claimed: Operation not permitted: /store/lease",
    ]
