"""A whole broker core on a journal on a simulated disk, crashed at any call: priorities, time to live, delays, delivery counts,
dead letters and fan-outs come back exactly as of one turn, and no turn that was durable is missing.

Two judges: what the broker held in memory at the end of each turn (compared position by position), and a ledger that knows
of each message where it may be (nothing lost, nothing in two places, whatever the broker thought).
"""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.core.broker import Broker, CoreLimits
from broker.core.delivery import Delivery
from broker.core.message import Message
from broker.core.subscription import Subscription
from broker.wire.amqp import values
from broker.wire.properties import AMQP, Properties
from store.errors import StoreError
from tests.support.core import FakeClock, RecordingSink
from tests.support.disk import Crashed, SimulatedDisk
from tests.support.store_drive import SMALL, Stepped

ROUNDS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
LIMITS = CoreLimits(window_bytes=100_000, window_count=12)
QUEUES = {
    "a": {},
    "b": {},
    "p": {"x-max-priority": 3},
    "ttl": {
        "x-message-ttl": 4000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
    },
    "limit": {
        "x-delivery-limit": 2,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
    },
    "dead": {},
    "later": {},
}
TARGETS = {
    "fan": ("a", "b"),
    "p": ("p",),
    "ttl": ("ttl",),
    "limit": ("limit",),
    "later": ("later",),
}


class Ledger:
    """Where each persistent message may be, by what was asked of the broker: body → ({queue: copies}, expires)."""

    def __init__(self):
        self.places = {}

    def copy(self):
        made = Ledger()
        made.places = {body: (dict(places), e) for body, (places, e) in self.places.items()}
        return made


class Run:
    """A broker from an opening to a crash."""

    def __init__(self, disk, clock, history, ledgers):
        self.disk, self.clock = disk, clock
        self.random = disk.random
        self.history, self.ledgers = history, ledgers
        self.base = 0
        self.stepped = Stepped(disk, settings=SMALL)
        self.broker = Broker(
            self.stepped.journal, clock, lambda: f"n{self.random.random()}", limits=LIMITS
        )
        self.broker.restore(self.stepped.recovered)
        self.vhost = self.broker.vhosts["/"]
        self.consumers = []
        self.hands = []

    def declare(self):
        for name, arguments in QUEUES.items():
            self.vhost.declare_queue(name, durable=True, arguments=arguments)
        self.vhost.declare_exchange("fan", "fanout", durable=True)
        for name in TARGETS["fan"]:
            self.vhost.bind_queue(name, "fan", "")

    # What is held

    def read(self, lane, first):
        while rows := self.stepped.journal.read(lane, first, 10**6, 10**9):
            yield from rows
            first = rows[-1][0] + 1

    def snapshot(self):
        """Every persistent message by queue, lane and position: body, times, delivery count where it is kept."""
        found = {}
        for name, queue in self.vhost.queues.items():
            for index, lane in enumerate(queue.lanes):
                rows = {d.position: (d.message, d.count) for d in lane.ready}
                rows |= {p: (d.message, d.count) for p, d in lane.unsettled.items()}
                if lane.paged_count:
                    paged = self.read(lane.number, lane.paged_from)
                    rows |= {p: (m, count) for p, m, count in paged}
                rows |= self.held_back(lane)
                for position, (m, count) in rows.items():
                    if m.is_persistent:
                        found[name, index, position] = (m.body, m.published_at, m.expires_at, count)
        return found | self.delayed() | self.due()

    def held_back(self, lane):
        read = self.stepped.journal.read
        rows = [(position, read(lane.number, position, 1, 10**9)) for position in lane.held]
        assert all(found and found[0][0] == position for position, found in rows)
        return {position: (found[0][1], lane.held[position]) for position, found in rows}

    def due(self):
        """Delayed requeues: lane and position, when, how often delivered before."""
        return {
            ("due", what.lane.number, what.position): (
                b"",
                due_ms,
                0,
                what.lane.held[what.position],
            )
            for due_ms, _, what in self.broker.delays._requeues
            if not isinstance(what, Delivery) and what.position in what.lane.held
        }

    def delayed(self):
        found = {}
        for (number, vhost), bucket in self.broker.delays._buckets.items():
            for position, m, _ in self.read(bucket.lane, 0):
                if m.is_persistent:
                    found["delay", number, vhost, position] = (m.body, m.published_at, 0, 0)
        return found

    def stored(self):
        """The same, as a recovery finds it: through the definitions and the lanes alone."""
        found = {}
        for key, value in self.stepped.recovered.definitions.items():
            parsed = json.loads(key)
            if parsed[0] == "queue":
                names = [(parsed[2], index, n) for index, n in enumerate(value["lanes"])]
            elif parsed[0] == "delay":
                names = [("delay", parsed[2], value["lane"])]
            elif parsed[0] == "requeue":
                found["due", parsed[1], parsed[2]] = (b"", value["due_ms"], 0, value["count"])
                continue
            else:
                continue
            for *start, number in names:
                prefix = (start[0], start[1], parsed[1]) if start[0] == "delay" else tuple(start)
                for position, m, count in self.read(number, 0):
                    expires = 0 if start[0] == "delay" else m.expires_at
                    if m.is_persistent:
                        found[*prefix, position] = (m.body, m.published_at, expires, count)
        return found

    # What is done

    def publish(self, serial):
        target = self.random.choice(sorted(TARGETS))
        is_persistent = self.random.random() < 0.8
        body = b"%d:%s" % (serial, bytes(self.random.choice([0, 10, 500])))
        expires = self.broker.now_ms + 6000 if self.random.random() < 0.1 else 0
        priority = self.random.randrange(5)
        exchange, key = ("fan", "") if target == "fan" else ("", target)
        made = Message(
            self.vhost.destination(exchange, key),
            AMQP,
            values.encode_properties(Properties()),
            body,
            is_persistent,
            priority,
            self.broker.now_ms,
            expires,
        )
        if target == "later":
            self.broker.delays.hold(self.vhost, made, self.broker.now_ms + 1500)
        else:
            self.vhost.publish(made)
        if is_persistent:
            places = dict.fromkeys(TARGETS[target], 1)
            # What expires, or is refused, may go to the dead letters or away, by its queue's arguments.
            self.ledger.places[body] = (places, bool(expires))

    def settle(self):
        held, self.hands = self.hands, []
        for consumer in self.consumers:
            held += consumer[1].taken
            consumer[1].taken.clear()
        self.random.shuffle(held)
        cut = self.random.randrange(len(held) + 1)
        self.hands, settled = held[cut:], held[:cut]
        choice = self.random.random()
        if choice < 0.5:
            for delivery in settled:
                self.note_gone(delivery)
            self.broker.acknowledge(settled)
        elif choice < 0.65:
            self.broker.requeue(settled)
        elif choice < 0.75:
            self.broker.delays.requeue(settled, self.broker.now_ms + 1500)
        elif choice < 0.85:
            self.broker.release(settled)
        else:
            for delivery in settled:
                if delivery.queue.settings.dead_letter_exchange is None:
                    self.note_gone(delivery)
            self.broker.reject(settled)

    def note_gone(self, delivery):
        known = self.ledger.places.get(delivery.message.body)
        if known is not None:
            known[0][delivery.queue.name] = 0
            if delivery.queue.name == "dead":
                known[0].update(ttl=0, limit=0)

    def change_consumers(self):
        if self.consumers and self.random.random() < 0.5:
            subscription, sink = self.consumers.pop()
            self.hands += sink.taken
            self.vhost.unsubscribe(subscription)
            return
        sink = RecordingSink()
        subscription = Subscription(
            sink, "t", is_acknowledged=True, credit=self.random.randrange(1, 6)
        )
        self.vhost.subscribe(self.random.choice(sorted(QUEUES)), subscription)
        self.consumers.append((subscription, sink))

    def turn(self, serials):
        self.ledger = self.ledgers[-1].copy()
        self.clock.seconds += self.random.choice([0, 0, 0.1, 1.0])
        self.broker.now_ms = self.clock.wall_ms()
        for _ in range(self.random.randrange(4)):
            self.publish(next(serials))
        if self.random.random() < 0.5:
            self.settle()
        if self.random.random() < 0.2:
            self.change_consumers()
        if self.random.random() < 0.3:
            self.broker.tick()
        if self.random.random() < 0.02:
            name = self.random.choice(sorted(QUEUES))
            self.vhost.purge_queue(name)
            lane = self.vhost.queues[name].lane
            held = {d.message.body for d in lane.unsettled.values()}
            held |= {message.body for message, _ in self.held_back(lane).values()}
            for body, (places, _) in self.ledger.places.items():
                if body not in held:
                    places[name] = min(places.get(name, 0), -1)
        self.end_turn()

    def end_turn(self):
        self.broker.dispatch()
        before = self.stepped.journal._committed
        commit = self.stepped.journal.commit(self.broker.take_unit())
        if commit != before:
            self.history.append(self.snapshot())
            self.ledgers.append(self.ledger)
            check_ledger(self.ledger, self.history[-1])

    def work(self, turns, serials):
        for _ in range(turns):
            self.turn(serials)
            choice = self.random.random()
            if choice < 0.5:
                self.stepped.step()
            if choice < 0.3:
                self.stepped.writer.run_jobs()
            failure = self.stepped.journal.failure
            if failure is not None:
                if isinstance(failure, Crashed):
                    raise Crashed
                raise failure

    @property
    def durable(self):
        told = self.stepped.box.durable
        return self.base + (told[-1] if told else 0)


def check_ledger(ledger, snapshot):
    """Each persistent message is exactly where it may be."""
    found = {}
    for key, (body, *_) in snapshot.items():
        if key[0] == "due":
            continue
        name = "later" if key[0] == "delay" else key[0]
        counts = found.setdefault(body, {})
        counts[name] = counts.get(name, 0) + 1
    for body, counts in found.items():
        assert body in ledger.places, f"{body!r} came from nowhere"
        assert max(counts.values()) == 1, f"{body[:20]!r} twice in {counts}"
    for body, (places, is_expiring) in ledger.places.items():
        counts = found.get(body, {})
        for name, wanted in places.items():
            here = counts.get(name, 0)
            if name in ("ttl", "limit"):
                is_right = here + counts.get("dead", 0) == wanted
                is_right |= places.get("dead", 0) < 0 and here + counts.get("dead", 0) <= wanted
            elif name == "dead":
                is_right = True
            else:
                is_right = here == max(wanted, 0) or (is_expiring and here <= wanted)
            assert is_right or wanted < 0, f"{body[:20]!r}: {counts}, but {places}"


def find_turn(run, history, durable):
    """The turn that a recovery came back to: at least the durable one.  Turns may differ in delivery counts alone."""
    stored, held = run.stored(), run.snapshot()
    problem = ""
    for turn in range(durable, len(history)):
        wanted = history[turn]
        if stored.keys() == wanted.keys() and all(
            stored[key][:3] == wanted[key][:3] for key in wanted
        ):
            problem = wrong_count(run, wanted, held)
            if not problem:
                return turn
    missing = {k: v for k, v in history[durable].items() if k not in stored}
    raise AssertionError(f"no turn from {durable} on is what was found: {problem}{missing}")


def wrong_count(run, wanted, held):
    """Counts that were kept are exact; what was handed out is marked, and more may be."""
    for key, (body, _, _, count) in wanted.items():
        if key[0] in ("delay", "due"):
            continue
        found = held[key][3]
        lane = run.vhost.queues[key[0]].lanes[key[1]]
        if key[2] < lane.redelivered_before and found == 0:
            found = 1  # marked when it is read
        if found not in (count, max(1, count)):
            return f"{body[:20]!r}: delivered {found} times, was {count}; "
    return ""


@given(
    seed=st.integers(0, 2**32),
    crashes=st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=1, max_size=4),
)
@ROUNDS
def test_after_a_crash_at_any_call_the_broker_is_as_of_one_turn(seed, crashes):
    disk, clock = SimulatedDisk(seed), FakeClock()
    history, ledgers = [{}], [Ledger()]
    serials = iter(range(10**9))
    base = 0
    for crash_after, is_kill in [*crashes, (None, False)]:
        run = None
        disk.crash_at = None if crash_after is None else disk.call_count + crash_after
        try:
            run = Run(disk, clock, history, ledgers)
            disk_at, disk.crash_at = disk.crash_at, None
            base = find_turn(run, history, base)
            del history[base + 1 :], ledgers[base + 1 :]
            run.base = base
            disk.crash_at = disk_at
            if not run.vhost.queues:
                run.ledger = ledgers[-1].copy()
                run.declare()
                run.end_turn()
            else:
                # What recovery itself changed: lanes without an owner.
                run.ledger = ledgers[-1]
                run.end_turn()
            run.work(60, serials)
            run.stepped.settle()
            if crash_after is None:
                run.stepped.journal.close()
        except (Crashed, StoreError) as error:
            assert disk.is_dead, repr(error)  # noqa: PT017 -- both ways out are right
        if run is not None:
            base = max(base, run.durable)
        if is_kill:
            disk.kill()
        else:
            disk.crash()
    run = Run(disk, clock, history, ledgers)
    assert find_turn(run, history, len(history) - 1) == len(history) - 1


def test_the_ledger_sees_a_message_that_is_twice_there_or_gone():
    ledger = Ledger()
    ledger.places[b"1"] = ({"a": 1, "b": 1}, False)
    row = (b"1", 0, 0, 0)
    check_ledger(ledger, {("a", 0, 0): row, ("b", 0, 0): row})
    for wrong in (
        {("a", 0, 0): row},
        {("a", 0, 0): row, ("b", 0, 0): row, ("b", 0, 1): row},
        {("a", 0, 0): row, ("b", 0, 0): (b"2", 0, 0, 0)},
    ):
        try:
            check_ledger(ledger, wrong)
        except AssertionError:
            continue
        raise AssertionError("not seen")
