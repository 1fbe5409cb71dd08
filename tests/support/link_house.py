"""Several brokers in one process: real cores, turns and link sessions; a network, clocks and disks in the test's hand.

A `Disk` keeps what was synced; a crash loses the rest.  Bytes travel in pieces; connections are cut at either end's time.
Everything is chosen by one `random.Random`, so a seed replays a failure exactly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from broker.core.broker import Broker
from broker.core.message import Message
from broker.core.subscription import Subscription
from broker.link.frames import OPENING, STRAND_OPENING, TOKEN_BYTES
from broker.link.session import LinkSession
from broker.link.settings import LinkSettings, Stream
from broker.link.strand import Strand
from broker.link.table import LinkTable
from broker.net.turn import Turn
from broker.wire.amqp import values
from broker.wire.properties import AMQP, Properties
from store.interface import (
    CHANGE_DEFINE,
    CHANGE_DROP_LANE,
    CHANGE_HORIZON,
    CHANGE_PURGE,
    CHANGE_REQUEUE,
    LaneState,
    Recovered,
    StoredMessage,
    UnitOfWork,
)
from tests.support.core import FakeClock


class _State:
    """What a disk holds: lanes of messages, next positions, definitions."""

    def __init__(self) -> None:
        self.lanes: dict[int, dict[int, StoredMessage]] = {}
        self.nexts: dict[int, int] = {}
        self.horizons: dict[int, int] = {}
        self.counts: dict[tuple[int, int], int] = {}
        self.definitions: dict[str, dict[str, Any]] = {}

    def copy(self) -> _State:
        made = _State()
        made.lanes = {number: dict(lane) for number, lane in self.lanes.items()}
        made.nexts, made.horizons = dict(self.nexts), dict(self.horizons)
        made.counts, made.definitions = dict(self.counts), dict(self.definitions)
        return made

    def apply(self, unit: UnitOfWork) -> None:
        for message, number, position in unit.published:
            self.lanes.setdefault(number, {})[position] = message
            self.nexts[number] = max(self.nexts.get(number, 0), position + 1)
        for number, position, _ in unit.acknowledged:
            self.lanes.setdefault(number, {}).pop(position, None)
            self.nexts[number] = max(self.nexts.get(number, 0), position + 1)
        for change in unit.changes:
            self._change(change)

    def _change(self, change: tuple[Any, ...]) -> None:
        kind = change[0]
        if kind == CHANGE_DEFINE:
            if change[2] is None:
                self.definitions.pop(change[1], None)
            else:
                self.definitions[change[1]] = change[2]
        elif kind == CHANGE_DROP_LANE:
            self.lanes.pop(change[1], None)
        elif kind == CHANGE_PURGE:
            lane = self.lanes.get(change[1], {})
            for position in [p for p in lane if p < change[2] and p not in change[3]]:
                del lane[position]
        elif kind == CHANGE_HORIZON:
            self.horizons[change[1]] = max(self.horizons.get(change[1], 0), change[2])
        elif kind == CHANGE_REQUEUE:
            self.counts[change[1], change[2]] = change[3]


class Disk:
    """A `Store` whose syncs come when the test says; `recover` after a crash shows what was synced."""

    def __init__(self, store_id: str) -> None:
        self.store_id = store_id
        self.durable = 0
        self.is_blocked = False
        self.epoch = 0
        self._synced = _State()
        self._live = _State()
        self._commit = 0
        self._waiting: list[tuple[int, UnitOfWork]] = []

    def image(self) -> _State:
        """A copy of what is synced."""
        return self._synced.copy()

    def put_back(self, image: _State) -> None:
        """Replace what is on disk by a copy that was made before."""
        self._synced = image.copy()

    def recover(self) -> Recovered:
        self._live = self._synced.copy()
        self._waiting = []
        self.durable = self._commit
        self.epoch += 1
        state = self._live
        lanes = {}
        for number in {*state.lanes, *state.horizons}:
            live = state.lanes.get(number, {})
            following = state.nexts.get(number, 0)
            lanes[number] = LaneState(
                min(live, default=following),
                following,
                len(live),
                sum(len(one.body) for one in live.values()),
                state.horizons.get(number, 0),
            )
        return Recovered(
            dict(state.definitions),
            lanes,
            max([0, *state.nexts, *state.horizons]) + 1,
            self.epoch,
            self.store_id,
        )

    def commit(self, unit: UnitOfWork) -> int:
        if not unit:
            return self._commit
        self._commit += 1
        self._live.apply(unit)
        self._waiting.append((self._commit, unit))
        return self._commit

    def hurry(self) -> None:
        return

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    def sync(self, count: int) -> int:
        """Make so many commits durable; returns the last one."""
        for number, unit in self._waiting[:count]:
            self._synced.apply(unit)
            self.durable = number
        del self._waiting[:count]
        return self.durable

    def read(
        self, lane: int, first: int, count_max: int, bytes_max: int
    ) -> list[tuple[int, StoredMessage, int]]:
        live = self._live.lanes.get(lane, {})
        rows = []
        size_bytes = 0
        for position in sorted(p for p in live if p >= first)[:count_max]:
            rows.append((position, live[position], self._live.counts.get((lane, position), 0)))
            size_bytes += len(live[position].body)
            if size_bytes >= bytes_max:
                break
        return rows

    def stat(self) -> dict[str, Any]:
        return {}


class Anyone:
    """A login that lets everybody in with every right."""

    is_settled = True
    is_valid = True
    name = "guest"
    tags = ("administrator",)
    on_settled = None

    def identity(self) -> Anyone:
        return self

    def may_enter(self, vhost: str) -> bool:
        return True

    def check(self, *what: str) -> None:
        """Allow everything."""


class Socket:
    """One end of a connection: a session, and what is on its way to the other end."""

    def __init__(self, node: Node, session: Any) -> None:
        self.node = node
        self.session = session
        self.other: Socket | None = None
        self.link: tuple[str, str] = ("", "")
        self.first: bytes | None = None
        self.flying = bytearray()
        self.is_cut = False
        self.is_gone = False
        if session is not None:
            node.turn.add(session, self)

    def flush(self) -> None:
        """What the turn calls."""
        if not self.is_gone:
            self.flying += b"".join(self.session.output())

    def lose(self, reason: str) -> None:
        """This end hears that the connection is gone."""
        if self.is_gone:
            return
        self.is_gone = True
        self.node.sockets.discard(self)
        if self.session is not None:
            self.session.connection_lost(reason)
            self.node.turn.remove(self.session)


class Node:
    """One broker."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        number = len(world.nodes) + 1
        self.disk = Disk(f"{number:032x}")
        self.links: dict[str, tuple[Node, LinkSettings]] = {}
        self.sockets: set[Socket] = set()
        self.claim_count = 0
        self.confirms: list[tuple[int, Callable[[], None]]] = []
        self.start()

    def start(self) -> None:
        """Open the store and rebuild everything of it."""
        self.claim_count += 1
        self.soon: list[Callable[[], None]] = []
        recovered = self.disk.recover()
        names = iter(range(1_000_000))
        self.broker = Broker(
            self.disk,  # type: ignore[arg-type]
            self.world.clock,
            lambda: f"n{self.claim_count}-{next(names)}",
        )
        self.turn = Turn(self.broker, self.disk, self.soon.append)  # type: ignore[arg-type]
        self.broker.restore(recovered)
        self.table = LinkTable(
            self.broker, recovered.store_id, f"{self.name}-claim{self.claim_count}", self.name
        )
        self.table.restore(recovered.definitions)
        dialed = [settings for _, settings in self.links.values()]
        self.table.disown({(one.name, stream) for one in dialed for stream in one.streams})
        self.vhost = self.broker.vhosts["/"]
        self.turn.schedule()

    def crash(self) -> None:
        """Lose everything that was not synced; the peers hear of it later."""
        for socket in list(self.sockets):
            socket.is_gone = True
            socket.is_cut = True
            if socket.other is not None:
                socket.other.is_cut = True
        self.sockets.clear()
        self.confirms.clear()
        self.start()

    def end_turn(self) -> None:
        calls, self.soon[:] = list(self.soon), []
        for call in calls:
            call()

    def sync(self, count: int) -> None:
        """Sync so many commits and tell."""
        durable = self.disk.sync(count)
        self.turn.on_durable(durable)
        while self.confirms and self.confirms[0][0] <= durable:
            self.confirms.pop(0)[1]()

    def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        confirmed: Callable[[], None] | None = None,
        *,
        lives_ms: int = 0,
    ) -> int:
        """Publish a persistent message; `confirmed` is called once it is on disk.  `lives_ms` 0: it does not expire."""
        taken = self.vhost.publish(
            Message(
                self.vhost.destination(exchange, key),
                AMQP,
                values.encode_properties(Properties(delivery_mode=2)),
                body,
                True,
                0,
                self.broker.now_ms,
                lives_ms and self.broker.now_ms + lives_ms,
            )
        )
        self.broker.dispatch()
        commit = self.disk.commit(self.broker.take_unit())
        self.turn.schedule()
        if confirmed is not None:
            self.confirms.append((commit, confirmed))
        return taken

    def bodies(self, queue: str) -> list[bytes]:
        """What waits in a queue, by the store."""
        lane = self.vhost.queues[queue].lanes[0].number
        return [row[1].body for row in self.disk.read(lane, 0, 1 << 30, 1 << 50)]

    def dial(self, name: str) -> Socket:
        """Connect one of our links."""
        far, settings = self.links[name]
        session = LinkSession(
            self.table,
            self.world.clock,
            self.turn.wake,
            self.world.random.randbytes(TOKEN_BYTES),
            settings=settings,
        )
        return self._connect(far, session, name)

    def dial_strand(self, socket: Socket) -> Socket:
        """Open one more connection beside one that is up."""
        assert socket.other is not None
        strand = Strand(socket.session, self.turn.wake, is_dialer=True)
        return self._connect(socket.other.node, strand, socket.link[1])

    def _connect(self, far: Node, session: Any, name: str) -> Socket:
        near = Socket(self, session)
        other = Socket(far, None)
        near.other, other.other = other, near
        near.link = other.link = (self.name, name)
        other.first = b""
        self.sockets.add(near)
        far.sockets.add(other)
        self.turn.wake(session)
        return near

    def receive(self, socket: Socket, piece: bytes) -> None:
        """Bytes come in; the first ones say what it is."""
        if socket.session is None:
            piece = self._look_at_first(socket, piece)
            if not piece:
                return
        socket.session.receive_data(piece)
        self.turn.wake(socket.session)

    def _look_at_first(self, socket: Socket, piece: bytes) -> bytes:
        first = (socket.first or b"") + piece
        socket.first = first
        end = len(STRAND_OPENING) + TOKEN_BYTES
        if len(first) < end:
            return b""
        if first.startswith(OPENING):
            socket.session = LinkSession(
                self.table,
                self.world.clock,
                self.turn.wake,
                b"",
                authenticate=lambda *_: Anyone(),  # type: ignore[arg-type,return-value]
            )
        else:
            joined = self.table.find_session(first[len(STRAND_OPENING) : end])
            if joined is None:
                self.world.cut(socket)
                return b""
            socket.session = Strand(joined, self.turn.wake, is_dialer=False)
            first = first[end:]
        self.turn.add(socket.session, socket)
        return first


class World:
    """All brokers, and the network between them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = FakeClock()
        self.nodes: dict[str, Node] = {}
        self.strand_chance = 0.3

    def add(self, *names: str) -> list[Node]:
        made = []
        for name in names:
            self.nodes[name] = Node(self, name)
            made.append(self.nodes[name])
        return made

    def link(self, near: Node, far: Node, name: str, *streams: Stream, **options: Any) -> None:
        """Configure a link that `near` dials."""
        settings = LinkSettings(
            name=name, addresses=(("far", 1),), streams=streams, heartbeat_seconds=1e6, **options
        )
        near.links[name] = (far, settings)

    def unlink(self, near: Node, name: str) -> None:
        """Take a link away, as `gridmsg link delete` does."""
        _, settings = near.links.pop(name)
        session = next(
            (
                one.session
                for one in near.sockets
                if one.link == (near.name, name) and isinstance(one.session, LinkSession)
            ),
            None,
        )
        for number, stream in enumerate(settings.streams):
            if session is not None and session.is_up:
                session.forget_stream(number)
            if stream.is_push:
                near.table.drop_stream(name, stream)
        if session is not None:
            session.fail("the link was taken away")
        near.turn.schedule()

    # Events

    def cut(self, socket: Socket) -> None:
        """Break a connection: what flies is lost, each end hears of it in its own time."""
        for end in (socket, socket.other):
            if end is not None:
                end.is_cut = True
                end.flying.clear()

    def sockets(self) -> Iterator[Socket]:
        for node in self.nodes.values():
            yield from sorted(node.sockets, key=lambda one: (one.link, id(one) * 0))

    def step(self) -> bool:
        """Do one thing that is due, chosen at random; False: nothing is."""
        due: list[Callable[[], None]] = []
        for node in self.nodes.values():
            if node.soon:
                due.append(node.end_turn)
            if node.disk.waiting_count:
                count = self.random.randint(1, node.disk.waiting_count)
                due.append(lambda node=node, count=count: node.sync(count))
            for socket in sorted(node.sockets, key=_order):
                due += self._due_of(socket)
        if not due:
            return self._dial_missing()
        self.random.choice(due)()
        return True

    def _due_of(self, socket: Socket) -> Iterator[Callable[[], None]]:
        if socket.is_cut or (socket.session is not None and socket.session.is_closing):
            yield lambda: self._lose(socket)
        elif socket.flying and socket.other is not None and not socket.other.is_cut:
            yield lambda: self._carry(socket)

    def _lose(self, socket: Socket) -> None:
        if not socket.is_cut:
            self.cut(socket)
        socket.lose("cut")

    def _carry(self, socket: Socket) -> None:
        other = socket.other
        assert other is not None
        count = self.random.choice((1, 7, 40, 300, 1000, len(socket.flying)))
        piece = bytes(socket.flying[:count])
        del socket.flying[:count]
        other.node.receive(other, piece)

    def _dial_missing(self) -> bool:
        is_any = False
        for node in self.nodes.values():
            connected = {
                one.link[1]: one
                for one in node.sockets
                if one.link[0] == node.name and isinstance(one.session, LinkSession)
            }
            for name in node.links:
                if name not in connected:
                    node.dial(name)
                    is_any = True
        return is_any

    def maybe_strand(self) -> None:
        """Sometimes open one more connection of a link that is up."""
        for socket in list(self.sockets()):
            session = socket.session
            if (
                isinstance(session, LinkSession)
                and session.is_dialer
                and session.is_up
                and not session.is_closing
                and not socket.is_cut
                and len(session.strands) < 2
                and self.random.random() < self.strand_chance
            ):
                socket.node.dial_strand(socket)

    def look(self) -> None:
        """What each broker does some times a second."""
        for node in self.nodes.values():
            node.table.look()
            node.broker.tick()
            if node.broker.has_changes:
                node.turn.schedule()

    def settle(self, steps_max: int = 200_000) -> None:
        """Go on until nothing is left to do."""
        quiet = 0
        for _ in range(steps_max):
            if self.step():
                quiet = 0
                continue
            self.look()
            quiet += 1
            if quiet > 3:
                return
        raise AssertionError("the brokers never come to rest")


def _order(socket: Socket) -> tuple[Any, ...]:
    return (socket.link, type(socket.session).__name__, len(socket.flying))


class Consumer:
    """Takes from a queue and acknowledges at once."""

    def __init__(self, node: Node, queue: str, credit: int = 3) -> None:
        self.is_writable = True
        self.node = node
        self.taken: list[Any] = []
        self.subscription = Subscription(self, "consumer", is_acknowledged=True, credit=credit)
        node.vhost.subscribe(queue, self.subscription)

    def deliver(self, subscription: Subscription, run: list[Any]) -> None:
        self.taken += run

    def cancelled(self, subscription: Subscription, reason: str) -> None:
        """The queue is gone."""

    def settle(self, done: Callable[[bytes], None]) -> None:
        """Acknowledge what it has; each body is told once that is on disk."""
        taken, self.taken = self.taken, []
        self.node.broker.acknowledge(taken)
        commit = self.node.disk.commit(self.node.broker.take_unit())
        self.node.turn.schedule()
        for one in taken:
            body = one.message.body
            self.node.confirms.append((commit, lambda body=body: done(body)))
