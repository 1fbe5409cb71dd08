"""What connections cost: memory and processor time of thousands that are idle, and of those among them that publish.

For each protocol a broker of its own: all connections are opened and left alone, then some of them publish persistent messages
at full speed, each with one window outstanding, to one queue that is consumed; beside them a client of 100 messages a second
notes how long its confirms take, alone before and then in the crowd.  Tests: tests/unit/bench/test_connections.py.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import resource
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Final, final

import click

from bench.accounting import free_offset
from bench.broker_process import BrokerProcess
from bench.feeder import Feeder, encode_send
from broker.wire.amqp import methods
from broker.wire.amqp.frames import content_frames, method_frame
from broker.wire.amqp.values import encode_properties
from broker.wire.properties import Properties

QUEUE: Final = "bench.connections"
BYSTANDER_QUEUE: Final = "bench.bystander"
BYSTANDER_RATE: Final = 100
WINDOW: Final = 10
"""Messages that a publisher has outstanding."""
OPEN_STEP: Final = 100
"""Connections opened at a time: fewer than a listener's queue holds."""
IDLE_SECONDS: Final = 5.0
ANSWER_SECONDS_MAX: Final = 60.0
READ_BYTES: Final = 1 << 18
SPARE_FILES: Final = 200
_ACK_BYTES: Final = 21
_PROPERTIES: Final = {"product": "bench", "capabilities": {"connection.blocked": True}}
_PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"


def _say(channel: int, name: str, *fields: object) -> bytes:
    return method_frame(channel, methods.encode(name, *fields))


@final
class Stomp:
    """What STOMP clients say."""

    name = "STOMP"
    hello: tuple[tuple[bytes, bytes], ...] = (
        (b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0", b"CONNECTED"),
    )
    consume = f"SUBSCRIBE\nid:0\ndestination:/queue/{QUEUE}\nack:auto\n\n\0".encode()
    confirm = b""

    def window(self, body: bytes) -> bytes:
        """Messages of which the last asks for a receipt, which stands for all."""
        return encode_send(QUEUE, body) * (WINDOW - 1) + encode_send(QUEUE, body, "r")

    def is_confirmed(self, answer: bytes, windows: int) -> bool:
        """Whether so many windows are confirmed by what came since the last was sent."""
        return answer.endswith((b"\0", b"\0\n")) and b"RECEIPT\n" in answer


@final
class Amqp:
    """What AMQP clients say; each opens one channel."""

    name = "AMQP"
    hello: tuple[tuple[bytes, bytes], ...] = (
        (
            _PROTOCOL_HEADER
            + _say(0, "connection.start-ok", _PROPERTIES, "PLAIN", b"\0guest\0guest", "en_US"),
            methods.METHODS["connection.tune"].code,
        ),
        (
            _say(0, "connection.tune-ok", 2047, 131_072, 0)
            + _say(0, "connection.open", "/", "", False)
            + _say(1, "channel.open", ""),
            methods.METHODS["channel.open-ok"].code,
        ),
    )
    consume = _say(1, "queue.declare", 0, QUEUE, False, True, False, False, False, {}) + _say(
        1, "basic.consume", 0, QUEUE, "", False, True, False, False, {}
    )
    confirm = _say(1, "confirm.select", True)

    def window(self, body: bytes) -> bytes:
        """Publishes on one channel."""
        publish = methods.encode("basic.publish", 0, "", QUEUE, False, False)
        header = encode_properties(Properties(delivery_mode=2))
        return content_frames(1, publish, header, body, 131_072) * WINDOW

    def is_confirmed(self, answer: bytes, windows: int) -> bool:
        """Whether the last message's tag is acknowledged: tags rise, and a nack would end the count."""
        tag = windows * WINDOW
        return len(answer) % _ACK_BYTES == 0 and answer[-10:-2] == tag.to_bytes(8, "big")


PROTOCOLS: Final[dict[str, type[Stomp | Amqp]]] = {"stomp": Stomp, "amqp": Amqp}


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What one protocol's connections cost."""

    protocol: str
    connections: int
    opened_per_s: int
    empty_mb: float
    idle_mb: float
    bytes_each: int
    idle_cpu_percent: float
    publishing: int
    messages_per_s: int
    cpu_us_each: float
    """Processor time of the broker for a message, published and consumed."""
    peak_mb: float
    alone_p50_ms: float
    alone_p99_ms: float
    beside_p50_ms: float
    beside_p99_ms: float


def raise_limit(files: int) -> None:
    """Let this process, and those that it starts, open so many files; raises ClickException."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < files:
        raise click.ClickException(
            f"{files} open files are needed and {hard} allowed; raise `ulimit -Hn`, or ask for fewer connections"
        )
    if soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def read_until(peer: socket.socket, mark: bytes) -> None:
    """Read until a text came; raises ClickException."""
    got = b""
    while mark not in got:
        piece = peer.recv(READ_BYTES)
        if not piece or got.startswith(b"ERROR"):
            raise click.ClickException(f"the broker hung up: {(got + piece)[:200]!r}")
        got += piece


def open_all(port: int, protocol: Stomp | Amqp, count: int) -> list[socket.socket]:
    """Connections that have logged in, a hundred at a time."""
    found: list[socket.socket] = []
    with click.progressbar(length=count, label=f"{protocol.name} connections") as bar:
        while len(found) < count:
            step = min(OPEN_STEP, count - len(found))
            peers = [
                socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS_MAX)
                for _ in range(step)
            ]
            found += peers
            for said, mark in protocol.hello:
                for peer in peers:
                    peer.sendall(said)
                for peer in peers:
                    read_until(peer, mark)
            bar.update(step)
    return found


def publish_all(
    publishers: list[socket.socket],
    consumer: socket.socket,
    protocol: Stomp | Amqp,
    body: bytes,
    seconds: float,
) -> int:
    """Publish window after window on every connection for so long; returns the messages confirmed."""
    window = protocol.window(body)
    chosen = selectors.DefaultSelector()
    done: dict[socket.socket, int] = {}
    answers: dict[socket.socket, bytes] = {}
    peer: socket.socket
    for peer in publishers:
        peer.sendall(protocol.confirm + window)
        peer.setblocking(False)
        chosen.register(peer, selectors.EVENT_READ, peer)
        done[peer] = 0
        answers[peer] = b""
    consumer.setblocking(False)
    chosen.register(consumer, selectors.EVENT_READ, consumer)
    deadline = time.monotonic() + seconds
    give_up = deadline + ANSWER_SECONDS_MAX
    while answers:
        is_over = time.monotonic() >= deadline
        if time.monotonic() >= give_up:
            raise click.ClickException(f"{len(answers)} publishers still wait for their confirms")
        for key, _ in chosen.select(0.1):
            peer = key.data
            with contextlib.suppress(BlockingIOError):
                piece = peer.recv(READ_BYTES)
                if not piece:
                    raise click.ClickException("the broker closed a connection that publishes")
                if peer is consumer:
                    continue
                answers[peer] += piece
                if not protocol.is_confirmed(answers[peer], done[peer] + 1):
                    continue
                done[peer] += 1
                if is_over:
                    chosen.unregister(peer)
                    del answers[peer]
                else:
                    answers[peer] = b""
                    peer.sendall(window)
    chosen.close()
    return sum(done.values()) * WINDOW


def note_latencies(port: int, seconds: float, answer: Pipe) -> None:
    """Publish at the bystander's rate and send back how long each confirm took since it was due, in ms.

    Runs in a process of its own.  It does not wait for one confirm before it sends the next.
    """
    feeder = Feeder(port)
    feeder.send(f"SUBSCRIBE\nid:0\ndestination:/queue/{BYSTANDER_QUEUE}\nack:auto\n\n\0".encode())
    count = int(seconds * BYSTANDER_RATE)
    began = time.perf_counter()
    due = [began + number / BYSTANDER_RATE for number in range(count)]

    def send() -> None:
        for number, at in enumerate(due):
            time.sleep(max(0.0, at - time.perf_counter()))
            feeder.send(encode_send(BYSTANDER_QUEUE, b"x" * 256, str(number)))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    found: list[float] = []
    while len(found) < count:
        command, headers, _ = feeder.frame()
        if command == "RECEIPT":
            found.append((time.perf_counter() - due[int(headers["receipt-id"])]) * 1000.0)
    answer.send(found)
    feeder.close()


@contextlib.contextmanager
def bystander(port: int, seconds: float) -> Iterator[Callable[[], tuple[float, float]]]:
    """Run the bystander; what is given returns its median and 99th percentile in ms, once it is done."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=note_latencies, args=(port, seconds, there), daemon=True)
    process.start()
    there.close()

    def result() -> tuple[float, float]:
        found = sorted(here.recv())
        return statistics.median(found), found[int(len(found) * 0.99)]

    try:
        yield result
    finally:
        process.join(ANSWER_SECONDS_MAX)
        process.kill()


def measure(
    folder: Path, protocol: Stomp | Amqp, count: int, publishing: int, size: int, seconds: float
) -> Outcome:
    """Open, leave alone, publish."""
    listeners = "".join(
        f'[[listener]]\nprotocol = "{one}"\nmax-connections = {count + SPARE_FILES}\n'
        for one in PROTOCOLS
    )
    config = f'{listeners}[failover]\nlocker = "none"\n'
    broker = BrokerProcess(folder, free_offset(), config)
    broker.start()
    try:
        for one in PROTOCOLS:
            broker.wait(one)
        port = broker.port_of(protocol.name.lower())
        # The first ones load what all share.
        first = open_all(port, protocol, OPEN_STEP)
        with bystander(broker.port, seconds) as alone:
            alone_ms = alone()
        empty_bytes, _ = broker.memory_bytes()
        began = time.perf_counter()
        peers = open_all(port, protocol, count - len(first))
        opened_seconds = time.perf_counter() - began
        idle_bytes, _ = broker.memory_bytes()
        cpu = broker.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        cpu = broker.cpu_seconds() - cpu
        consumer = first[0]
        consumer.sendall(protocol.consume)
        began = time.perf_counter()
        busy = -broker.cpu_seconds()
        with bystander(broker.port, seconds) as beside:
            confirmed = publish_all(
                (first + peers)[1 : publishing + 1], consumer, protocol, b"x" * size, seconds
            )
            took = time.perf_counter() - began
            busy += broker.cpu_seconds()
            beside_ms = beside()
        _, peak_bytes = broker.memory_bytes()
        for peer in first + peers:
            peer.close()
    finally:
        broker.stop()
    return Outcome(
        protocol=protocol.name,
        connections=count,
        opened_per_s=round(len(peers) / opened_seconds),
        empty_mb=round(empty_bytes / 1e6, 1),
        idle_mb=round(idle_bytes / 1e6, 1),
        bytes_each=round((idle_bytes - empty_bytes) / len(peers)),
        idle_cpu_percent=round(100 * cpu / IDLE_SECONDS, 1),
        publishing=publishing,
        messages_per_s=round(confirmed / took),
        cpu_us_each=round(1e6 * busy / confirmed, 1),
        peak_mb=round(peak_bytes / 1e6, 1),
        alone_p50_ms=round(alone_ms[0], 2),
        alone_p99_ms=round(alone_ms[1], 2),
        beside_p50_ms=round(beside_ms[0], 2),
        beside_p99_ms=round(beside_ms[1], 2),
    )


@click.command()
@click.option(
    "--count",
    default=10_000,
    show_default=True,
    type=click.IntRange(200),
    help="Connections to open.",
)
@click.option(
    "--publishing",
    default=1_000,
    show_default=True,
    type=click.IntRange(1),
    help="How many of them publish.",
)
@click.option(
    "--size", default=1024, show_default=True, type=click.IntRange(0), help="Bytes of a body."
)
@click.option("--seconds", default=10.0, show_default=True, help="How long they publish.")
@click.option(
    "--protocol",
    "names",
    type=click.Choice(list(PROTOCOLS)),
    multiple=True,
    default=list(PROTOCOLS),
    show_default=True,
)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to put the stores.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def connections(
    count: int,
    publishing: int,
    size: int,
    seconds: float,
    names: tuple[str, ...],
    folder: Path | None,
    as_json: bool,
) -> None:
    """Memory and processor time of idle connections, and what those that publish do to the others."""
    if publishing >= count:
        raise click.UsageError("--publishing must be below --count")
    raise_limit(count + SPARE_FILES)
    found: list[Outcome] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="gridmsg-bench-", dir=folder) as path:
            found.append(measure(Path(path), PROTOCOLS[name](), count, publishing, size, seconds))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    for one in found:
        for key, value in asdict(one).items():
            click.echo(f"{key.replace('_', ' '):20} {value}")
        click.echo()
