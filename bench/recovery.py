"""How long a broker takes from the start of its process to the first message delivered, by what it holds.

For each topology (queues) the backlog is raised step by step; at each step the broker is killed (`kill -9`), restarted
and asked for a message, several times, from the cache and from the disk, after quiet and in mid-traffic.  "Empty" is the
same topology without messages, in a store of its own: there the message asked for is published first.  Each start is
measured beside one of the empty store, so that ratios hold on a busy machine.  Tests: tests/unit/bench/test_recovery.py.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import statistics
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import click

from bench.accounting import free_offset
from bench.broker_process import BrokerProcess, forget_cached, used_bytes
from bench.feeder import Feeder, encode_send
from bench.peer_process import PeerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAFFIC_SECONDS: Final = 3.0
QUIET_SECONDS: Final = 1.5
"""How long a broker that is to be killed in quiet is left alone before."""
DECLARE_STEP: Final = 500
TRAFFIC_QUEUE: Final = "bench.traffic"
OURS: Final = "gridmsg"
FIRST_SECONDS_MAX: Final = 900.0
"""How long a first message is waited for."""


@final
@dataclass(frozen=True, slots=True)
class Start:
    """One start of a broker, measured; seconds count from the start of the process."""

    queues: int
    messages: int
    killed: str
    cache: str
    accept_seconds: float
    first_seconds: float
    cpu_seconds: float
    rss_mb: float
    peak_mb: float
    beside: int = 0
    """For an empty one: the backlog that it was measured beside."""
    broker: str = OURS


@final
@dataclass(frozen=True, slots=True)
class Filling:
    """What it took to publish a backlog with confirms."""

    queues: int
    messages: int
    messages_per_second: float
    peak_mb: float
    disk_mb: float
    broker: str = OURS


def queue_names(count: int) -> list[str]:
    """The queues of a topology."""
    return [f"bench.{number:05d}" for number in range(count)]


class Target(Protocol):
    """A broker on this machine that can be started and killed again and again."""

    started_at: float

    @property
    def folder(self) -> Path:
        """Where its store is."""
        ...

    @property
    def port(self) -> int:
        """Where it listens for STOMP."""
        ...

    def start(self) -> None:
        """Start it on the store that it has."""
        ...

    def wait(self) -> None:
        """Return when it accepts connections."""
        ...

    def kill(self) -> None:
        """`kill -9`, if it runs."""
        ...

    def cpu_seconds(self) -> float:
        """Processor time used so far."""
        ...

    def memory_bytes(self) -> tuple[int, int]:
        """Resident memory now, and the most there was."""
        ...


def fill(broker: Target, queues: list[str], old: int, new: int, size: int) -> Filling:
    """Publish until `new` messages are stored; every one is confirmed."""
    begin = time.perf_counter()
    feeder = Feeder(broker.port)
    feeder.publish(queues, new - old, b"x" * size)
    seconds = time.perf_counter() - begin
    feeder.close()
    _, peak = broker.memory_bytes()
    disk = used_bytes(broker.folder)
    return Filling(len(queues), new, (new - old) / seconds, peak / 1e6, disk / 1e6)


def declare(broker: Target, queues: list[str]) -> None:
    """Make the queues, empty."""
    for start in range(0, len(queues), DECLARE_STEP):
        feeder = Feeder(broker.port)
        part = queues[start : start + DECLARE_STEP]
        for queue in part:
            feeder.send(encode_send(queue, b"x"))
            feeder.subscribe(queue, 1)
        feeder.drain(len(part))
        feeder.send(b"DISCONNECT\nreceipt:bye\n\n\0")
        feeder.expect("RECEIPT")
        feeder.close()


@contextlib.contextmanager
def traffic(broker: Target, size: int) -> Iterator[None]:
    """Publish and consume beside the backlog at full speed while the block runs; ends when the broker is gone."""

    def publish() -> None:
        with contextlib.suppress(OSError, click.ClickException):
            feeder = Feeder(broker.port)
            while True:
                feeder.publish([TRAFFIC_QUEUE], 5000, b"y" * size)

    def consume() -> None:
        with contextlib.suppress(OSError, click.ClickException):
            feeder = Feeder(broker.port)
            feeder.subscribe(TRAFFIC_QUEUE, 500)
            while True:
                feeder.drain(100)

    threads = [threading.Thread(target=one, daemon=True) for one in (publish, consume)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def measure(
    broker: Target, queues: list[str], messages: int, size: int, killed: str, cache: str
) -> Start:
    """Start the broker, take one message, kill it."""
    if cache == "cold":
        forget_cached(broker.folder)
    broker.start()
    broker.wait()
    accepted = time.perf_counter()
    feeder = Feeder(broker.port, FIRST_SECONDS_MAX)
    queue = random.choice(queues)
    if not messages:
        feeder.send(encode_send(queue, b"x" * size))
    feeder.subscribe(queue, 1)
    headers, _ = feeder.expect("MESSAGE")
    delivered = time.perf_counter()
    rss, peak = broker.memory_bytes()
    cpu_seconds = broker.cpu_seconds()
    if not messages:
        feeder.send(f"ACK\nid:{headers['ack']}\nreceipt:done\n\n\0".encode())
        # Artemis syncs no acknowledgements: one from before the last kill may come again.
        while feeder.frame()[0] == "MESSAGE":
            pass
    feeder.close()
    if killed == "in traffic":
        with traffic(broker, size):
            time.sleep(random.uniform(TRAFFIC_SECONDS / 2, TRAFFIC_SECONDS))
            broker.kill()
    else:
        time.sleep(QUIET_SECONDS)
        broker.kill()
    begin = broker.started_at
    return Start(
        len(queues),
        messages,
        killed,
        cache,
        accepted - begin,
        delivered - begin,
        cpu_seconds,
        rss / 1e6,
        peak / 1e6,
    )


def run_topology(
    folder: Path, queue_count: int, steps: list[int], size: int, rounds: int, caches: list[str]
) -> tuple[list[Start], list[Filling]]:
    """Measure one topology at each number of messages, every start beside one without messages."""
    offset = free_offset()
    empty, full = (make_broker(folder / name, offset) for name in ("empty", "full"))
    queues = queue_names(queue_count)
    starts: list[Start] = []
    fillings: list[Filling] = []
    held = 0
    try:
        for broker in (empty, full):
            broker.start()
            broker.wait()
            declare(broker, queues)
            broker.kill()
        for messages in steps:
            if messages > held:
                full.start()
                full.wait()
                fillings.append(fill(full, queues, held, messages, size))
                full.kill()
                say(f"{messages} in {queue_count} queues: {fillings[-1].messages_per_second:.0f}/s")
                held = messages
            for killed in ("quiet", "in traffic"):
                if killed == "in traffic":
                    # The first start only brings the traffic up whose end the next ones meet.
                    measure(empty, queues, 0, size, killed, "warm")
                    measure(full, queues, held, size, killed, "warm")
                for cache in caches * rounds:
                    beside = measure(empty, queues, 0, size, killed, cache)
                    starts.append(replace(beside, beside=held))
                    if held:
                        starts.append(measure(full, queues, held, size, killed, cache))
    finally:
        empty.kill()
        full.kill()
    return starts, fillings


def run_peer(
    peer: PeerProcess, steps: list[int], size: int, rounds: int, caches: list[str]
) -> tuple[list[Start], list[Filling]]:
    """Measure another broker with one queue: empty, then at each number of messages, killed in quiet."""
    queues = queue_names(1)
    starts: list[Start] = []
    fillings: list[Filling] = []
    held = 0
    try:
        peer.start()
        peer.wait()
        declare(peer, queues)
        peer.kill()
        for messages in [0, *steps]:
            if messages > held:
                peer.start()
                peer.wait()
                filled = fill(peer, queues, held, messages, size)
                peer.kill()
                fillings.append(replace(filled, broker=peer.name))
                say(f"{messages} in {peer.name}: {filled.messages_per_second:.0f}/s")
                held = messages
            for cache in caches * rounds:
                found = measure(peer, queues, held, size, "quiet", cache)
                starts.append(replace(found, broker=peer.name))
    finally:
        peer.kill()
    return starts, fillings


def make_broker(folder: Path, port_offset: int) -> BrokerProcess:
    """A broker on a new folder."""
    folder.mkdir()
    return BrokerProcess(folder, port_offset)


def say(text: str) -> None:
    """Tell the progress, beside the result."""
    click.echo(text, err=True)


def rows_of(starts: list[Start]) -> list[dict[str, Any]]:
    """Medians by case, each with its ratio to the starts without messages that were measured beside it."""
    cases: dict[tuple[str, int, int, str, str], list[Start]] = {}
    for one in starts:
        case = (one.broker, one.queues, one.messages, one.killed, one.cache)
        cases.setdefault(case, []).append(one)
    rows = []
    for (broker, queues, messages, killed, cache), found in cases.items():
        first = statistics.median(one.first_seconds for one in found)
        empty = cases.get((broker, queues, 0, killed, cache), found)
        if messages:
            empty = [one for one in empty if one.beside == messages] or empty
        base = statistics.median(one.first_seconds for one in empty)
        rows.append(
            {
                "broker": broker,
                "queues": queues,
                "messages": messages,
                "killed": killed,
                "cache": cache,
                "starts": len(found),
                "accept_s": round(statistics.median(o.accept_seconds for o in found), 3),
                "first_s": round(first, 3),
                "first_max_s": round(max(one.first_seconds for one in found), 3),
                "cpu_s": round(statistics.median(one.cpu_seconds for one in found), 2),
                "ratio": round(first / base, 2),
                "rss_mb": round(max(one.rss_mb for one in found)),
                "peak_mb": round(max(one.peak_mb for one in found)),
            }
        )
    return rows


def table_of(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def plot(starts: list[Start], path: Path) -> None:
    """Draw every start: seconds to the first message against messages stored, one line a case."""
    try:
        # By name: an optional extra, which type checkers need not find.
        importlib.import_module("matplotlib").use("Agg")
        plt: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise click.ClickException(
            "a plot needs matplotlib: pip install 'gridmsg[plot]'; the table needs nothing"
        ) from None
    figure, axes = plt.subplots(figsize=(8, 5))
    cases = sorted({(one.broker, one.queues, one.killed, one.cache) for one in starts})
    for case in cases:
        mine = [one for one in starts if (one.broker, one.queues, one.killed, one.cache) == case]
        counts = sorted({one.messages for one in mine})
        medians = [
            statistics.median(one.first_seconds for one in mine if one.messages == count)
            for count in counts
        ]
        label = f"{case[0]}, {case[1]} queue(s), killed {case[2]}, {case[3]} cache"
        axes.plot([max(count, 1) for count in counts], medians, marker="o", label=label)
        points = [(max(one.messages, 1), one.first_seconds) for one in mine]
        axes.scatter(*zip(*points, strict=True), s=8, alpha=0.4)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("messages stored (1 stands for none)")
    axes.set_ylabel("process start to first message delivered, s")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


@click.command()
@click.option("--messages", default="100000,1000000", show_default=True, help="Backlogs to try.")
@click.option("--queues", default="1", show_default=True, help="Numbers of queues to try.")
@click.option("--size", default=256, show_default=True, help="Bytes of a body.")
@click.option("--rounds", default=3, show_default=True, help="Starts measured for each case.")
@click.option(
    "--cold/--no-cold", default=True, show_default=True, help="Also start with no page cached."
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME:PORT:SCRIPT",
    help="Another broker to measure the same way with one queue: its STOMP port, and a script that is called with start, "
    "kill, pid or data and NAME (KEEP=1 in its environment: keep the store).",
)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to put the stores.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw it to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def recovery(
    messages: str,
    queues: str,
    size: int,
    rounds: int,
    cold: bool,
    peers: tuple[str, ...],
    folder: Path | None,
    plot_path: Path | None,
    as_json: bool,
) -> None:
    """Time from process start to the first message delivered, by what is stored; memory beside it."""
    starts: list[Start] = []
    fillings: list[Filling] = []
    steps = sorted(int(word) for word in messages.split(","))
    caches = ["warm", "cold"] if cold else ["warm"]
    others = [PeerProcess.parse(text) for text in peers]
    for count in (int(word) for word in queues.split(",")):
        with tempfile.TemporaryDirectory(prefix="gridmsg-bench-", dir=folder) as name:
            found, filled = run_topology(Path(name), count, steps, size, rounds, caches)
        starts += found
        fillings += filled
    for peer in others:
        found, filled = run_peer(peer, steps, size, rounds, caches)
        starts += found
        fillings += filled
    if plot_path is not None:
        plot(starts, plot_path)
    rows = rows_of(starts)
    filled_rows: list[dict[str, Any]] = [
        {
            key: value if isinstance(value, str) else round(value)
            for key, value in asdict(one).items()
        }
        for one in fillings
    ]
    if as_json:
        click.echo(json.dumps({"starts": rows, "fillings": filled_rows}, indent=2))
        return
    click.echo(table_of(rows))
    if filled_rows:
        click.echo("\n" + table_of(filled_rows))
