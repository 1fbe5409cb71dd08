"""Real journals on one simulated disk: at any call of one owner another takes over, down to three deep; then they wake up again.

The former owners are zombies whose clocks stood still, and whose syncs may fail: only the lookup fence and the chain of openings hold them.  Whatever was
confirmed, by whomever, is there afterwards, through kills and power losses.  GRIDMSG_TAKEOVER_SEEDS="first:count" or "count" sets the
seeds; a failure names its seed, and `run_history(seed)` replays it.
"""

from __future__ import annotations

import errno
import random

from store.errors import Corrupt, Fenced
from store.interface import StoredMessage
from store.lease import InUse
from tests.support.disk import SimulatedDisk
from tests.support.seeds import no_logs, seeds
from tests.support.store_drive import Stepped, message, unit

SEEDS = seeds("GRIDMSG_TAKEOVER_SEEDS", 120)
LANE = 1
DEEP_MAX = 3


class Owner:
    """An opened journal, and what it was told to keep and to forget."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.stepped = Stepped(arena.disk)
        state = self.stepped.recovered.lanes.get(LANE)
        self.next = state.next if state is not None else 0
        try:
            self.alive = arena.read(self.stepped)
        except (Corrupt, OSError):
            # What it reads was alive when it opened; its successor may have removed it since.
            if not self.is_followed():
                raise
            raise Fenced("followed while it read") from None
        # commit → bodies to keep, bodies to forget.
        self.commits: dict[int, tuple[list[bytes], list[bytes]]] = {}

    def work(self, rounds: int) -> None:
        """Publish and acknowledge, with steps and checkpoints in between; ends when fenced."""
        dice, journal = self.arena.dice, self.stepped.journal
        for _ in range(rounds):
            self._commit()
            if dice.random() < 0.7:
                self.stepped.step()
            if dice.random() < 0.3:
                self.stepped.writer.run_jobs()
            if journal.failure is not None:
                if not isinstance(journal.failure, Fenced) and not self.is_followed():
                    raise journal.failure
                return

    def _commit(self) -> None:
        dice = self.arena.dice
        made, kept, gone = unit(), [], []
        for _ in range(dice.choice([0, 0, 1, 3, 8])):
            if self.alive:
                at = min(int(dice.expovariate(0.3)), len(self.alive) - 1)
                position, stored = self.alive.pop(at)
                made.acknowledged.append((LANE, position, stored))
                gone.append(stored.body)
        for _ in range(dice.randrange(1, 4)):
            self.arena.number += 1
            stored = message(b"%d:" % self.arena.number + bytes(dice.choice([0, 40, 900])))
            made.published.append((stored, LANE, self.next))
            self.alive.append((self.next, stored))
            self.next += 1
            kept.append(stored.body)
        self.arena.forgotten.update(gone)
        self.commits[self.stepped.journal.commit(made)] = (kept, gone)

    def is_followed(self) -> bool:
        """A former owner may fail over anything that its successor removed."""
        try:
            self.stepped.journal._lease.check()
        except Fenced:
            return True
        return False

    def promised(self) -> None:
        """Note what was confirmed."""
        durable = self.stepped.box.durable[-1] if self.stepped.box.durable else 0
        for commit, (kept, gone) in self.commits.items():
            if commit <= durable:
                self.arena.confirmed += kept
                self.arena.settled.update(gone)


class Arena:
    """The disk, and who thinks that it is theirs."""

    def __init__(self, seed: int) -> None:
        self.disk = SimulatedDisk(seed)
        self.dice = random.Random(seed)
        self.number = 0
        self.owners: list[Owner] = []
        self.confirmed: list[bytes] = []
        # Acknowledged by whomever; acknowledged, and that confirmed.
        self.forgotten: set[bytes] = set()
        self.settled: set[bytes] = set()
        self.take_overs = 0
        self.fenced = 0

    def plan(self, depth: int) -> None:
        """Another owner comes at some call from now on."""
        due = self.disk.call_count + self.dice.randrange(1, 160)

        def before_call(name: str, count: int) -> None:
            if count < due:
                return
            self.disk.before_call = None
            if depth < DEEP_MAX and self.dice.random() < 0.5:
                self.plan(depth + 1)
            self.live()
            self.take_overs += 1
            self.disk.before_call = None
            if name == "sync" and self.dice.random() < 0.5:
                # What it wrote is in the page cache only, and its successor has sealed it there.
                raise OSError(errno.EIO, "the sync of a former owner fails")

        self.disk.before_call = before_call

    def live(self) -> None:
        """Open, work; a claim or an opening may be lost to the next one."""
        try:
            owner = Owner(self)
        except Fenced:
            self.fenced += 1
            return
        except (InUse, OSError):
            # Another claimed while this one listed, or at the same moment; or its opening was not synced.
            self.fenced += 1
            return
        self.owners.append(owner)
        owner.work(self.dice.randrange(4, 25))

    def run(self) -> None:
        for _ in range(self.dice.randrange(1, 4)):
            self.plan(1)
            self.live()
            self.disk.before_call = None
            # The zombies wake up once more.
            for owner in self.owners:
                if owner.stepped.journal.failure is None:
                    owner.work(3)
            for owner in self.owners:
                owner.promised()
                self.fenced += owner.stepped.journal.failure is not None
            self.owners.clear()
            if self.dice.random() < 0.5:
                self.disk.crash()
            else:
                self.disk.kill()
        self.judge()

    def read(self, stepped: Stepped) -> list[tuple[int, StoredMessage]]:
        found: list[tuple[int, StoredMessage]] = []
        first = 0
        while rows := stepped.journal.read(LANE, first, 50, 1 << 20):
            found += [(position, stored) for position, stored, _ in rows]
            first = rows[-1][0] + 1
        return found

    def judge(self) -> None:
        found = [stored.body for _, stored in self.read(Stepped(self.disk))]
        assert len(found) == len(set(found)), "stored twice"
        lost = set(self.confirmed) - set(found) - self.forgotten
        assert not lost, f"{len(lost)} of {len(self.confirmed)} confirmed are lost"
        back = self.settled & set(found)
        assert not back, f"{len(back)} of {len(self.settled)} acknowledged came back"


def run_history(seed: int) -> Arena:
    """Run one history; an AssertionError names the seed."""
    arena = Arena(seed)
    try:
        arena.run()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return arena


@no_logs()
def test_a_take_over_at_any_call_loses_nothing_confirmed():
    take_overs = fenced = confirmed = settled = 0
    for seed in SEEDS:
        arena = run_history(seed)
        take_overs += arena.take_overs
        fenced += arena.fenced
        confirmed += len(arena.confirmed)
        settled += len(arena.settled)
    count = len(SEEDS)
    print(
        f"seeds {SEEDS[0]} to {SEEDS[-1]}: {take_overs} take-overs amid a call, {fenced} owners fenced, "
        f"{confirmed} confirmed, {settled} acknowledged"
    )
    assert take_overs > count and fenced > count / 2 and settled > 5 * count
    assert confirmed > 10 * count
