"""Contenders for one store, run by the real lease code in simulated time; a judge looks at what they promise.

`Rules` switches single rules off, to show that the judge then finds the trap.  A seed replays a history exactly.
"""

from __future__ import annotations

import dataclasses

from broker.standby import Standby
from store.errors import Fenced
from store.lease.directory import DirectoryLocker, Terms, highest_epoch
from store.lease.held import Lease, Ledger
from store.lease.past import remove_settled
from store.lease.renewal import Rhythm
from store.lease.watch import Sight
from tests.support.shared_folder import HostOf, Mount, Process, Server, SimHost, World

LEASE = "/store/lease"
D = 1.0
LOOK = 0.2 * D
WRITE = 0.15 * D


class Broken(AssertionError):
    """A promise of the protocol was broken."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which rules hold, and how bad the world is."""

    drift: float = 0.02
    lag_seconds: float = 0.0
    stale_seconds: float = 0.0
    has_margin: bool = True
    has_return_check: bool = True
    has_boot_clock: bool = True
    has_lookup: bool = True
    keeps_fences: bool = True
    claims_what_was_judged: bool = True
    proves_namespace: bool = True
    wants_beats: bool = True
    faults: tuple[str, ...] = (
        "kill", "stop", "suspend", "unwritable", "handover", "reboot", "tear", "foreign", "hang", "blip", "slow",
    )  # fmt: skip

    @property
    def margin_seconds(self) -> float:
        # The counter is read whole steps of the simulated clock late; a thousandth covers rounding.
        needed = self.lag_seconds + self.stale_seconds + self.drift * D + 0.001
        return max(0.1 * D, needed) if self.has_margin else 0.0


class History:
    """What the journal is to the protocol: one list an epoch, and openings that seal the former ones."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.items: dict[int, list[int]] = {}
        self.openings: dict[int, tuple[int, int]] = {}
        self.confirmed: list[tuple[int, int]] = []
        self.served: dict[int, float] = {}
        self.highest_confirmed = 0
        self.number = 0

    def chain(self) -> list[int]:
        """All items that count, by the openings."""
        epoch, end, found = max(self.openings, default=0), None, []
        while epoch:
            found = self.items[epoch][:end] + found
            epoch, end = self.openings[epoch]
        return found

    def confirm(self, epoch: int, item: int) -> None:
        self.confirmed.append((epoch, item))

    def judge_owner(self, epoch: int, what: str) -> None:
        newer = [e for e in self.served if e > epoch]
        if newer:
            raise Broken(
                f"epoch {epoch} {what} at {self.world.now:.3f}, epoch {newer[0]} serves since {self.served[newer[0]]:.3f}"
            )


class Contender:
    """One broker process: it stands by, claims, opens, serves, is fenced, stands by again."""

    def __init__(self, arena: Arena, host: SimHost, pid: int) -> None:
        self.arena = arena
        self.world = arena.world
        self.process = Process(arena.world, host, pid)
        self.mount = Mount(arena.server, self.process, self.pause)
        self.is_asked_to_stop = False
        self.is_hung = False
        self.slow_until = 0.0
        self.lease: Lease | None = None
        self.machine = Standby(D, arena.rules.drift)
        self.process.start(self.live, arena.world.random.random() * LOOK)

    def clock(self) -> float:
        host = self.process.host
        return host.boot_clock() if self.arena.rules.has_boot_clock else host.standing_clock()

    def pause(self, name: str) -> None:
        """One call of the file system takes its time; rarely a long one."""
        dice = self.world.random.random()
        if self.world.now < self.slow_until:
            self.world.wait(dice * dice * 0.6 * D)
            return
        if dice < 0.7:
            return
        if dice < 0.995 or self.arena.is_calm:
            self.world.wait(self.world.random.random() * 0.02 * D)
        else:
            self.world.wait(self.world.random.random() * 2 * D)

    def live(self) -> None:
        arena, rules = self.arena, self.arena.rules
        locker = DirectoryLocker(
            self.mount,
            LEASE,
            HostOf(self.process),
            Terms(D, rules.margin_seconds, rules.drift),
            lambda: 0,
            clock=self.clock,
            new_claim=arena.new_claim,
        )
        while not self.is_asked_to_stop:
            self.world.wait(LOOK)
            try:
                sight = locker.look()
                if not self.machine.saw(sight, self.clock()):
                    continue
                lease = self.claim(locker, sight)
            except OSError:
                continue
            if lease is None:
                continue
            if not rules.has_lookup:
                lease._ledger = Blind(lease._ledger)
            lease._gate = Gate(self)
            self.machine.won(lease.epoch)
            self.lease = lease
            try:
                self.own(lease)
                lease.release()
            except (Fenced, OSError):
                pass
            self.machine.fenced(lease.lost_reason or "failed")
            lease.lose("let go")
            self.machine.let_go()
            self.lease = None
        self.process.kill()

    def claim(self, locker: DirectoryLocker, sight: Sight) -> Lease | None:
        if self.arena.rules.claims_what_was_judged:
            return locker.claim(sight)
        newest = max(sight.epoch, highest_epoch(self.mount, LEASE))
        return locker.claim(Sight(newest, None, False, 0, 0))

    def own(self, lease: Lease) -> None:
        history, rules = self.arena.history, self.arena.rules
        lease.expect(*(("main",) if rules.wants_beats else ()))
        lease.beat("main")
        self.process.start(lambda: self.renew(lease))
        epoch = lease.epoch
        history.items[epoch] = []
        self.pause("create")
        lower = [e for e in history.openings if e < epoch]
        predecessor = max(lower, default=0)
        self.pause("sync")
        end = len(history.items.get(predecessor, []))
        self.pause("read")
        history.openings[epoch] = (predecessor, end)
        self.pause("sync")
        lease.mark_opened(1)
        lease.check()
        self.machine.opened()
        history.served[epoch] = self.world.now
        self.tidy(epoch)
        while not self.is_asked_to_stop:
            self.world.wait(WRITE * self.world.random.random() * 2)
            while self.is_hung:
                self.world.wait(WRITE)
            lease.beat("main")
            if lease.is_valid():
                # A delivery leaves now.
                history.judge_owner(epoch, "delivers")
                self.arena.last_service = self.world.now
            else:
                raise Fenced(lease.lost_reason)
            history.number += 1
            item = history.number
            self.pause("write")
            history.items[epoch].append(item)
            self.pause("sync")
            lease.check()
            history.judge_owner(epoch, "confirms")
            # The promise may leave late: the successor has its bytes.
            self.pause("send")
            history.confirm(epoch, item)

    def renew(self, lease: Lease) -> None:
        rhythm = Rhythm(lease)
        while not lease.lost_reason and not lease._is_released:
            self.world.wait(rhythm.look_seconds / self.process.host.rate)
            if not lease.is_valid():
                return
            if rhythm.is_due(self.clock()):
                try:
                    self.renew_once(lease, rhythm)
                except OSError:
                    continue

    def renew_once(self, lease: Lease, rhythm: Rhythm) -> None:
        if self.arena.rules.has_return_check:
            rhythm.renew()
            return
        # The rule against trap 1 off: whatever returned counts, whenever it returned.
        started_at = self.clock()
        lease.block.counter += 1
        lease._ledger.write(lease.block)
        lease.lost_reason = ""
        lease.renewed_at = started_at
        lease.valid_until = self.clock() + D - self.arena.rules.margin_seconds

    def tidy(self, epoch: int) -> None:
        """Remove the files of former epochs: those that fence nobody, or, with the rule off, all."""
        arena, host = self.arena, HostOf(self.process)
        if not arena.rules.keeps_fences:
            host.is_dead = lambda owner: True  # type: ignore[method-assign]
        arena.tidied_count += remove_settled(self.mount, LEASE, host, epoch, (), 0)


class Blind:
    """A ledger without the lookup."""

    def __init__(self, ledger: Ledger) -> None:
        self.write = ledger.write

    def is_superseded(self) -> bool:
        return False


class Gate:
    """The lease's lock in simulated time."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._is_held = False

    def acquire(self, timeout: float = -1) -> bool:
        if self._is_held:
            return False
        self._is_held = True
        return True

    def release(self) -> None:
        self._is_held = False

    def __enter__(self) -> None:
        while self._is_held:
            self._contender.world.wait(0.01)
        self._is_held = True

    def __exit__(self, *_: object) -> None:
        self._is_held = False


class Arena:
    """A world with hosts, a folder and contenders, and what the seed does to them."""

    def __init__(self, seed: int, rules: Rules | None = None) -> None:
        self.rules = rules = rules or Rules()
        self.world = World(seed)
        self.server = Server(self.world, rules.lag_seconds, rules.stale_seconds)
        self.history = History(self.world)
        self.is_calm = False
        self.last_service = 0.0
        self.tidied_count = 0
        self.tally: dict[str, int] = {}
        self._claim_number = 0
        random = self.world.random
        spread = rules.drift / 2.1
        self.hosts = [
            # One name for all, and pids that meet: only boot id and namespace tell hosts apart.
            SimHost(
                self.world,
                "host",
                1 + random.uniform(-spread, spread),
                random.uniform(0, 1e8),
                f"boot{n}",
            )
            for n in range(random.choice([1, 2, 2, 3]))
        ]
        if not rules.proves_namespace:
            for host in self.hosts:
                host.is_dead = lambda owner, host=host: owner.pid not in host.alive  # type: ignore[method-assign]
        self._pid = 100
        self.contenders: list[Contender] = []
        for _ in range(random.choice([2, 2, 3])):
            self.add(random.choice(self.hosts))

    def new_claim(self) -> str:
        self._claim_number += 1
        return f"{self._claim_number:032d}"

    def add(self, host: SimHost) -> None:
        self._pid += 1
        self.contenders.append(Contender(self, host, self._pid))

    def fault(self) -> None:
        random = self.world.random
        kind = random.choice(self.rules.faults)
        self.tally[kind] = self.tally.get(kind, 0) + 1
        active = [c for c in self.contenders if c.lease is not None and not c.process.is_killed]
        victim = random.choice(active if active and random.random() < 0.8 else self.contenders)
        if kind == "kill":
            victim.process.kill()
            self.add(random.choice(self.hosts))
        elif kind == "stop":
            victim.process.stop(random.random() * 3 * D)
        elif kind == "suspend":
            victim.process.host.suspend(random.random() * 3 * D)
        elif kind == "unwritable":
            victim.mount.is_writable = False
        elif kind == "blip":
            victim.mount.writable_at = self.world.now + random.random() * D
        elif kind == "slow":
            # Its storage answers late for a while.
            victim.slow_until = self.world.now + random.random() * 3 * D
        elif kind == "handover":
            victim.is_asked_to_stop = True
            self.add(random.choice(self.hosts))
        elif kind == "reboot":
            host = victim.process.host
            for one in self.contenders:
                if one.process.host is host:
                    one.process.kill()
            host.boot_id += "'"
            host.alive.clear()
            self.add(host)
            self.add(random.choice(self.hosts))
        elif kind == "tear":
            epochs = [p for p in self.server.files if p.startswith(f"{LEASE}/epoch-")]
            if epochs:
                content = self.server.files[max(epochs)]
                start = random.choice([0, 0, 4096, 5000])
                content[start:] = bytes(len(content[start:])) if random.random() < 0.5 else b""
        elif kind == "foreign":
            # A claim by someone who dies at once, on a host that nobody knows.
            from store.lease.block import Block, encode_file

            claim = self.new_claim()
            number = 1 + max([int(p[-6:]) for p in self.server.files if "/epoch-" in p], default=0)
            owner = SimHost(self.world, "gone", 1, 0, "far").identity_of(1)
            raw = encode_file(Block(number, claim, owner, D, ""))
            self.server.put(f"{LEASE}/epoch-{number:06d}", raw)
        elif kind == "hang":
            # The reactor hangs while its threads are well.
            victim.is_hung = True

    def run(self) -> None:
        """Faults for a while, then calm; raises Broken."""
        random = self.world.random
        end = 6 * D
        try:
            while self.world.now < end:
                self.world.run(self.world.now + random.random() * 2 * D)
                if self.world.now < end:
                    self.fault()
            self.calm()
            # Someone's lease runs out, a claim, a call that hangs at its longest: then somebody serves.
            self.world.run(self.world.now + 3 * D + 3 * D + 2 * LOOK)
            self.judge_end()
        finally:
            self.world.end()

    def calm(self) -> None:
        self.is_calm = True
        for one in self.contenders:
            one.mount.is_writable = True
            one.mount.writable_at = 0.0
            one.slow_until = 0.0
        if all(
            one.process.is_killed or one.is_hung or one.is_asked_to_stop for one in self.contenders
        ):
            self.add(self.hosts[0])

    def judge_end(self) -> None:
        lost = {item for _, item in self.history.confirmed} - set(self.history.chain())
        if lost:
            raise Broken(f"{len(lost)} confirmed items are not in the history: {sorted(lost)[:5]}")
        if self.world.now - self.last_service > D:
            raise Broken(f"nobody serves since {self.last_service:.2f}, it is {self.world.now:.2f}")


def run_history(seed: int, rules: Rules | None = None) -> Arena:
    """Run one history; raises Broken with the seed."""
    arena = Arena(seed, rules)
    try:
        arena.run()
    except Broken as error:
        raise Broken(f"seed {seed}: {error}") from None
    return arena


__all__ = ["Arena", "Broken", "Rules", "highest_epoch", "run_history"]
