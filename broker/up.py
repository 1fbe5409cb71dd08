"""Supervise a site: the broker and its agents as child processes of one `gridmsg up`.

Each child is started anew when it ends, after a pause that doubles up to a bound and falls back once it
has run for a while.  Lines of children are passed on with their name in front.  On SIGINT, SIGTERM or SIGHUP the agents
are stopped first, the broker last; what does not end in time is killed.  A child's input is a pipe from here: when the
supervisor is killed the pipe ends, and the child stops by itself (`broker.cli.supervised`).
Tests: tests/unit/broker/test_up.py, tests/e2e/.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Final, final

from broker.cli.base import Failure, Place
from broker.cli.supervised import SUPERVISED
from broker.config import DEFAULT_DATA, split_address

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from agents.config import AgentSettings

AGENTS: Final = ("collector", "database", "summary", "replay")
PAUSE_SECONDS_MIN: Final = 0.5
PAUSE_SECONDS_MAX: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""A child that ran this long is started again at once when it ends."""
READY_SECONDS_MAX: Final = 60.0
COLLECTOR_SECONDS_MAX: Final = 15.0
STOP_SECONDS: Final = 5.0
LINE_BYTES_MAX: Final = 64 << 10


@final
class Child:
    """One supervised process and when to start it next."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.command = list(command)
        self.process: subprocess.Popen[bytes] | None = None
        self.pause_seconds = PAUSE_SECONDS_MIN
        self.start_at = 0.0
        self.started_at = 0.0
        self.rest = b""
        self.last_line = ""

    def ended(self, now: float) -> None:
        """Plan the next start after the process ended."""
        self.process = None
        if now - self.started_at >= STEADY_SECONDS:
            self.pause_seconds = PAUSE_SECONDS_MIN
        self.start_at = now + self.pause_seconds
        self.pause_seconds = min(self.pause_seconds * 2, PAUSE_SECONDS_MAX)

    def lines(self, chunk: bytes) -> Iterator[str]:
        """Whole lines of output so far; a line without end is cut at LINE_BYTES_MAX."""
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
        if len(self.rest) > LINE_BYTES_MAX:
            yield self.rest.decode("utf-8", "replace")
            self.rest = b""


@final
class Site:
    """The children of one `gridmsg up`."""

    def __init__(self, children: Sequence[Child], write: Callable[[str], None]) -> None:
        self._children = list(children)
        self._write = write
        self._selector = selectors.DefaultSelector()
        self.is_stopping = False

    def start(self, child: Child) -> None:
        """Start a child's process."""
        child.started_at = time.monotonic()
        child.process = subprocess.Popen(  # noqa: S603 - our own program
            child.command,
            env={**os.environ, SUPERVISED: "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert child.process.stdout is not None, "stdout is a pipe"
        os.set_blocking(child.process.stdout.fileno(), False)
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def turn(self, seconds: float) -> None:
        """Pass on output, notice ended children, start those whose time has come."""
        for key, _ in self._selector.select(seconds):
            self._pass_on(key.data)
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._reap(child, now)
            if child.process is None and not self.is_stopping and now >= child.start_at:
                self.start(child)

    def stop(self) -> None:
        """Stop agents, then the broker; kill what does not end in time."""
        self.is_stopping = True
        *agents, broker = reversed(self._children)
        for group in (agents, [broker]):
            for child in group:
                if child.process is not None:
                    child.process.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and any(child.process for child in group):
                self.turn(0.05)
            for child in group:
                if child.process is not None:
                    self._write(f"{child.name} did not end in {STOP_SECONDS:.0f} s: killing it")
                    child.process.kill()
                    child.process.wait()
                    self._reap(child, time.monotonic())

    def _reap(self, child: Child, now: float) -> None:
        self._pass_on(child)
        process = child.process
        assert process is not None, "only a running child is reaped"
        if process.stdout is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(process.stdout)
            process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()
        status = process.returncode
        child.ended(now)
        if not self.is_stopping:
            how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            self._write(
                f"{child.name} ended ({how}): starting it again in {child.start_at - now:.1f} s"
            )

    def _pass_on(self, child: Child) -> None:
        if child.process is None or child.process.stdout is None:
            return
        while True:
            try:
                chunk = os.read(child.process.stdout.fileno(), 65536)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                chunk = b""
            if not chunk:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(child.process.stdout)
                return
            for line in child.lines(chunk):
                child.last_line = line
                self._write(f"{child.name:<9} | {line}")


def agent_children(
    gridmsg: Sequence[str],
    site_arguments: Sequence[str],
    databases: Sequence[str],
    without: tuple[str, ...] = (),
) -> list[Child]:
    """A child for each agent, one for each database."""
    children = []
    for name in AGENTS:
        if name in without:
            continue
        if name != "database" or len(databases) == 1:
            children.append(Child(name, [*gridmsg, name, "run", *site_arguments]))
            continue
        children += [
            Child(one, [*gridmsg, "database", "run", "--name", one, *site_arguments])
            for one in databases
        ]
    return children


def run(place: Place, settings: AgentSettings, without: tuple[str, ...] = ()) -> int:
    """Run the site until told to stop; raises Failure if it cannot start."""
    check_folder(place.data_folder)
    addresses: list[tuple[str, str, int]] = [
        (one.protocol, one.host, one.port) for one in place.config.listeners if one.port
    ]
    if "collector" not in without:
        host, port = split_address(settings.collector.address)
        addresses.append(("collector", host, port))
    check_ports(addresses)
    gridmsg = [sys.executable, "-m", "broker"]
    site_arguments = place.arguments()
    broker = Child("broker", [*gridmsg, "broker", "run", *site_arguments])
    databases = [one.name for one in settings.database]
    agents = agent_children(gridmsg, site_arguments, databases, without)
    site = Site([broker, *agents], _write_line)
    stopping: list[int] = []

    def told_to_stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, told_to_stop)
    try:
        for agent in agents:
            agent.start_at = float("inf")
        if not _start_broker(site, broker, place, stopping):
            if stopping:
                return 0
            said = broker.last_line.partition("gridmsg broker: ")[2]
            raise Failure(said or "the broker did not start: look at its lines above")
        for agent in agents:
            agent.start_at = 0.0
        if "collector" not in without:
            _wait_for_port(site, settings.collector.address, stopping)
        for line in welcome_lines(place, without):
            _write_line(line)
        while not stopping:
            site.turn(0.5)
        _write_line("stopping")
        return 0
    finally:
        site.stop()


def _start_broker(site: Site, broker: Child, place: Place, stopping: list[int]) -> bool:
    """Wait until the broker is active; False if it ended, was not ready in time, or we are to stop."""
    site.start(broker)
    deadline = time.monotonic() + READY_SECONDS_MAX
    while not stopping and time.monotonic() < deadline:
        assert broker.process is not None, "it was started"
        if broker.process.poll() is not None:
            site.is_stopping = True
            site.turn(0)
            return False
        site._pass_on(broker)
        if is_ready(place):
            return True
        time.sleep(0.05)
    if not stopping:
        _write_line(f"the broker was not ready after {READY_SECONDS_MAX:.0f} s: stopping")
    return False


def _wait_for_port(site: Site, address: str, stopping: list[int]) -> None:
    """Let the site run until the collector takes connections, or its time is up."""
    deadline = time.monotonic() + COLLECTOR_SECONDS_MAX
    while not stopping and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(split_address(address), 0.5):
            return
        site.turn(0.05)


def is_ready(place: Place) -> bool:
    """Whether the broker says that it is active (or, without a management listener, takes connections)."""
    listener = place.config.listener("management")
    if listener is None:
        one = place.config.listeners[0]
        with contextlib.suppress(OSError), socket.create_connection((one.host, one.port), 1.0):
            return True
        return False
    host = listener.host if listener.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    connection = HTTPConnection(host, listener.port, timeout=1.0)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def check_folder(folder: Path) -> None:
    """Make the data folder if it is missing; raises Failure if it cannot be written to."""
    try:
        # Records and messages are not everybody's.
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Failure(
            f"cannot write to the data folder {folder} ({error.strerror}): "
            "name another with --data, or give this user the right to write there"
        ) from None


def check_ports(addresses: Sequence[tuple[str, str, int]]) -> None:
    """Raise Failure, with what to do, unless all the ports are free."""
    for name, host, port in addresses:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise Failure(
                        f"port {port} ({name}) on {host} is in use: stop what listens there, "
                        "or shift all default ports with --port-offset N"
                    ) from None
                raise Failure(
                    f"cannot listen on {host}:{port} ({name}): {error.strerror}"
                ) from None


def welcome_lines(place: Place, without: tuple[str, ...]) -> list[str]:
    """Where to send records, and where to look."""
    lines = ["", "the site runs; data folder " + str(place.data_folder.resolve())]
    if "collector" not in without:
        address = place.collector_url()
        lines.append(
            f"  send records to  {address}/gratia-servlets/rmi  (probes)  "
            f"or {address}/records  (JSON)"
        )
    names = {"amqp": "AMQP 0-9-1", "stomp": "STOMP"}
    lines += [
        f"  {names[one.protocol]:<15}  {one.host}:{one.port}{'  (TLS)' if one.tls else ''}"
        for one in place.config.listeners
        if one.protocol in names
    ]
    if place.config.listener("management") is not None:
        lines.append(f"  console          {place.url}/")
    options = f" --port-offset {place.port_offset}" if place.port_offset else ""
    if place.data is not None and str(place.data) != DEFAULT_DATA:
        options = f" --data {place.data}{options}"
    lines.append(f"  look with        {_command()} status{options}   (stop with Ctrl-C)")
    lines.append("")
    return lines


def _command() -> str:
    """How this shell can call the command: by its name, or by its place in the environment."""
    if shutil.which("gridmsg"):
        return "gridmsg"
    installed = os.path.join(os.path.dirname(sys.executable), "gridmsg")  # noqa: PTH118, PTH120
    return min(os.path.relpath(installed), installed, key=len)


def _write_line(line: str) -> None:
    # Whoever read our output may have gone (a closed terminal, `| head`): the site goes on, and stops, without.
    with contextlib.suppress(OSError, ValueError):
        print(line, flush=True)  # noqa: T201 - the supervisor's log is its output
