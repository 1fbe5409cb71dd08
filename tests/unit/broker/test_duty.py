"""What a standby has ready before it is needed, and who becomes one."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

import broker.listening
import broker.server
from broker.config import DEFAULT_PORTS
from broker.duty import SERVING_MODULES, Duty
from broker.failover import Failover
from broker.standby import Phase
from store.errors import Corrupt, Fenced
from store.lease.block import Block
from store.lease.directory import Terms
from store.lease.held import Lease
from store.lease.host import Identity
from store.lease.watch import Sight

LATER = {"broker.net.tls"}
"""Imported before listening, where the configuration wants it."""


def imported_in_functions(path: Path) -> set[str]:
    found = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            found |= {n.module for n in ast.walk(function) if isinstance(n, ast.ImportFrom)}
    return found


def test_a_standby_imports_all_that_the_server_imports_late():
    rooms = (broker.server, broker.listening)
    wanted = set().union(*(imported_in_functions(Path(one.__file__)) for one in rooms)) - LATER
    wanted = {name for name in wanted if name.split(".")[1] in ("session", "net", "management")}
    assert wanted == {name for names in SERVING_MODULES.values() for name in names}


@pytest.mark.parametrize("protocol", DEFAULT_PORTS)
def test_each_protocol_has_its_modules(protocol):
    assert SERVING_MODULES[protocol]


class Ledger:
    def write(self, block):
        self.is_released = block.is_released

    def is_superseded(self):
        return False


class Free:
    """A store that nobody owns."""

    def look(self):
        return Sight(0, None, False, 0.0, 0.0)

    def claim(self, sight):
        block = Block(1, "c", Identity("h", 1, "1", "b", "n"), 600.0)
        return Lease(Ledger(), block, lambda: 0.0, 1.0, 0.0)


def started_with(error):
    """A process that claimed, and whose store could not be opened."""
    duty = Duty(SimpleNamespace(listeners=[]), None)
    failover = Failover(Free(), Terms(), lambda call, *rest: None, None, duty._closed, None)
    failover._stopping.set()
    duty._failover = failover

    def refuse():
        raise error

    duty._make_server = lambda lease: SimpleNamespace(open_store=refuse, abandon=lambda: None)
    duty._serve_now(failover.claim_at_once())
    return failover


def test_who_is_fenced_before_it_served_stands_by():
    failover = started_with(Fenced("the lease ran out"))
    assert failover.machine.phase is Phase.STANDBY and failover.lease is None
    assert failover.machine.reason == "the lease ran out"


def test_any_other_failure_ends_the_start():
    with pytest.raises(Corrupt):
        started_with(Corrupt("segment", 0, "broken"))
