"""Each rule of the failover taken out of the source: the test named for its trap, or the simulation, must fail.

The packages are copied, one place is changed, and the tests run on the copy with the rule "on".  A place that is not there exactly once
fails here: then this table is to be brought up to date.  GRIDMSG_RULES_SEEDS sets the histories of the simulations.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.rules_off import Off, check_noticed, copied, run

pytestmark = pytest.mark.slow
SEEDS = os.environ.get("GRIDMSG_RULES_SEEDS", "1500")
ENVIRONMENT = {"GRIDMSG_LEASE_SEEDS": SEEDS, "GRIDMSG_TAKEOVER_SEEDS": SEEDS}
COPIED = ("store", "broker", "tests/support", "tests/sim", "tests/suites", "tests/unit/store")
HELD, DIRECTORY, HOST, WATCH, PAST = (
    f"tests/unit/store/test_lease_{one}.py"
    for one in ("held", "directory", "host", "watch", "past")
)
TRAPS = "tests/unit/store/test_lease_traps.py"
LEASES = ("tests/sim/test_lease.py", "one_owner")
TAKEOVERS = ("tests/sim/test_takeover.py", "take_over")


CHECK_SYNCED = """                self._unsynced.append(batch.segment)
            self._lease.check()
"""
STANDS_DOWN = """        if highest_epoch(files, folder) > epoch:
            # We slept"""

RULES_OFF = (
    Off(
        "trap 1: a renewal counts though it returned too late",
        "store/lease/held.py",
        "            if not self.is_valid():\n                return False\n            # Still",
        "            # Still",
        (HELD, "trap_1 and True"),
    ),
    Off(
        "trap 1: a renewal counts from its return",
        "store/lease/held.py",
        "            self.renewed_at = started_at\n            self.valid_until = self._end(started_at)",
        "            self.renewed_at = self._clock()\n            self.valid_until = self._end(self._clock())",
        (HELD, "counts_from_its_start"),
    ),
    Off(
        "trap 1: a renewal counts from its return, simulated",
        "store/lease/held.py",
        "            self.renewed_at = started_at\n            self.valid_until = self._end(started_at)",
        "            self.renewed_at = self._clock()\n            self.valid_until = self._end(self._clock())",
        LEASES,
    ),
    Off(
        "trap 2: no margin",
        "store/lease/held.py",
        "started_at + duration - self._margin_seconds if",
        "started_at + duration if",
        (HELD, "trap_2 and 2.0"),
    ),
    Off(
        "trap 2: no margin, simulated",
        "store/lease/held.py",
        "started_at + duration - self._margin_seconds if",
        "started_at + duration if",
        LEASES,
    ),
    Off(
        "trap 3: a clock that stands still in suspend",
        "store/lease/host.py",
        'getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)',
        "time.CLOCK_MONOTONIC",
        (HELD, "trap_3"),
    ),
    Off(
        "trap 3: no lookup",
        "store/lease/held.py",
        '    def check(self) -> None:\n        """Pass both fences, or raise Fenced; OSError when the lookup gets no answer."""\n'
        "        if self._ledger.is_superseded():",
        "    def check(self) -> None:\n        if False:",
        (HELD, "trap_3 and True"),
    ),
    Off(
        "no lookup, simulated: owners whose clocks stand still",
        "store/lease/held.py",
        '    def check(self) -> None:\n        """Pass both fences, or raise Fenced; OSError when the lookup gets no answer."""\n'
        "        if self._ledger.is_superseded():",
        "    def check(self) -> None:\n        if False:",
        TAKEOVERS,
    ),
    Off(
        "trap 4: renames without the guard",
        "store/keeper.py",
        "        self._lease.check()\n        publish_file(layout.files,",
        "        publish_file(getattr(layout.files, '_files', layout.files),",
        (TRAPS, "trap_4 and newest and True"),
    ),
    Off(
        "trap 4: any checkpoint is history",
        "store/recovery.py",
        "    return not later or (",
        "    return True or (",
        (TRAPS, "trap_4 and chain and True"),
    ),
    Off(
        "trap 5: an epoch goes on behind its sealed end",
        "store/recovery.py",
        "        following = openings[epochs[index + 1]] if index + 1 < len(epochs) else None",
        "        following = None",
        (TRAPS, "trap_5 and True"),
    ),
    Off(
        "an epoch goes on behind its sealed end, simulated",
        "store/recovery.py",
        "        following = openings[epochs[index + 1]] if index + 1 < len(epochs) else None",
        "        following = None",
        TAKEOVERS,
    ),
    Off(
        "trap 6: a torn tail is cut in another's file",
        "store/recovery.py",
        "    segment.file.sync()\n    segment.file.forget_cached()",
        "    segment.file.write(segment.size_bytes // 2, [b'cut'])\n    segment.file.sync()",
        (TRAPS, "trap_6 and True"),
    ),
    Off(
        "trap 7: sealed without a sync",
        "store/recovery.py",
        "    segment.file.sync()\n    segment.file.forget_cached()",
        "    segment.file.forget_cached()",
        (TRAPS, "trap_7 and not_synced and True"),
    ),
    Off(
        "trap 7: sealed from the page cache",
        "store/recovery.py",
        "    segment.file.sync()\n    segment.file.forget_cached()",
        "    segment.file.sync()",
        (TRAPS, "trap_7 and never_got and True"),
    ),
    Off(
        "trap 7: sealed without a sync, simulated",
        "store/recovery.py",
        "    segment.file.sync()\n    segment.file.forget_cached()",
        "    segment.file.forget_cached()",
        TAKEOVERS,
    ),
    Off(
        "trap 8: who slept before the link does not list again",
        "store/lease/directory.py",
        STANDS_DOWN,
        STANDS_DOWN.replace("highest_epoch(files, folder) > epoch", "False"),
        (DIRECTORY, "trap_8 and True"),
    ),
    Off(
        "trap 9: a late winner opens without the guard",
        "store/journal.py",
        "            self._begin(history, segment)\n            self._lease.check()",
        "            self._begin(history, segment)",
        (TRAPS, "trap_9 and True"),
    ),
    Off(
        "trap 10: another namespace's pids",
        "store/lease/host.py",
        "if not self._namespace or owner.namespace != self._namespace or",
        "if",
        (HOST, "trap_10"),
    ),
    Off(
        "trap 10: another boot is a reboot",
        "store/lease/host.py",
        "        if not self._boot_id or owner.boot_id != self._boot_id:\n            return False",
        "        if owner.boot_id != self._boot_id:\n            return True",
        (HOST, "trap_10"),
    ),
    Off(
        "trap 11: renewed though nobody moves",
        "store/lease/renewal.py",
        "return (is_time or lease.is_urgent) and not self.idle()",
        "return is_time or lease.is_urgent",
        (HELD, "trap_11 and True"),
    ),
    Off(
        "trap 11: renewed though nobody moves, simulated",
        "store/lease/renewal.py",
        "return (is_time or lease.is_urgent) and not self.idle()",
        "return is_time or lease.is_urgent",
        LEASES,
    ),
    Off(
        "no guard after the sync",
        "store/journal.py",
        CHECK_SYNCED,
        CHECK_SYNCED.replace("            self._lease.check()\n", ""),
        TAKEOVERS,
    ),
    Off(
        "a contender trusts that clocks run alike",
        "store/lease/watch.py",
        "return self._duration_seconds * (1 + self._drift)",
        "return self._duration_seconds * (1 - 4 * self._drift)",
        LEASES,
    ),
    Off(
        "a contender counts from before its first read",
        "store/lease/watch.py",
        "                self._since = sight.returned_at",
        "                self._since = sight.started_at",
        LEASES,
    ),
    Off(
        "a contender counts to after its last read",
        "store/lease/watch.py",
        "if sight.started_at - self.since >=",
        "if sight.returned_at - self.since >=",
        LEASES,
    ),
    Off(
        "a torn renewal is no renewal, however many came unseen",
        "store/lease/watch.py",
        "return self._since if self._torn_since is None else self._torn_since",
        "return self._since",
        (WATCH, "looked_away"),
    ),
    Off(
        "a claim after an epoch that came since",
        "store/lease/directory.py",
        "        if max(highest_epoch(files, folder), self._floor) > sight.epoch:\n            return None\n"
        "        epoch = sight.epoch + 1",
        "        epoch = max(highest_epoch(files, folder), self._floor) + 1",
        LEASES,
    ),
    Off(
        "link's answer is believed, not what is read back",
        "store/lease/directory.py",
        "        if found is None or found.claim != claim:\n            return None",
        "        if found is None:\n            return None",
        LEASES,
    ),
    Off(
        "segments go without the guard",
        "store/lease/guarded.py",
        '    def unlink(self, path: str) -> None:\n        """Pass the guard first."""\n        self._lease.check()\n',
        "    def unlink(self, path: str) -> None:\n",
        (TRAPS, "renames_and_unlinks"),
    ),
    Off(
        "a lease file goes that fences a sleeper",
        "store/lease/past.py",
        "is_settled(epoch) and is_settled(epoch - 1)",
        "is_settled(epoch)",
        (PAST, "fences"),
    ),
    Off(
        "a sleeper's own lease file goes",
        "store/lease/past.py",
        "is_settled(epoch) and is_settled(epoch - 1)",
        "is_settled(epoch - 1)",
        (PAST, "fences"),
    ),
    Off(
        "what recovery asks for goes",
        "store/lease/past.py",
        "epoch not in used and ",
        "",
        (PAST, "recovery"),
    ),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("tree"), COPIED)


@pytest.mark.parametrize("off", RULES_OFF, ids=lambda off: off.name)
def test_without_the_rule_somebody_notices(tree, off):
    check_noticed(tree, off, ENVIRONMENT)


@pytest.mark.parametrize("noticed_by", sorted({off.noticed_by for off in RULES_OFF}))
def test_with_every_rule_nobody_complains(tree, noticed_by):
    done = run(tree, noticed_by, ENVIRONMENT)
    assert done.returncode == 0, done.stdout[-1500:]
