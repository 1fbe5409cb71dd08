"""A site as the lab runs it: its broker, which may be killed and started again, and the agent that makes its load.

Both run in the site's namespace and die with the lab.  Tests: tests/unit/bench/lab/test_site.py, tests/interop/test_lab_run.py.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path as FilePath
from typing import Any, Final, final

from bench.broker_process import cpu_seconds, end_process
from bench.lab.ground import Ground, Place
from bench.lab.topology import Channel, Path, Topology
from broker.session.passwords import hash_password

LOGIN: Final = "lab"
START_SECONDS_MAX: Final = 180.0
STOP_SECONDS_MAX: Final = 20.0
LOG_CHARACTERS: Final = 1500
RETRY_SECONDS: Final = 0.2
RETRY_SECONDS_MAX: Final = 3.0
"""Of links: sooner than by default, so that a run with many cuts is not mostly waiting."""


class SiteFailed(Exception):
    """A process of a site did not do what it must; the text has the end of its log."""


@final
class Secret:
    """The login that links and clients of a run use, and its hash."""

    def __init__(self) -> None:
        self.password = secrets.token_urlsafe(12)
        self.hashed = hash_password(self.password)


def broker_config(site: str, topology: Topology, ground: Ground, secret: Secret) -> str:
    """The configuration file of a site's broker; no lease: nobody shares its store, and a crowded machine must not end it."""
    place = ground.places[site]
    lines = [
        "[broker]",
        f'name = "{site}"',
        'disk-reserve = "64MiB"',
        "[failover]",
        'locker = "none"',
        "[[listener]]",
        'protocol = "amqp"',
        f'address = "{place.listen_host}:{place.amqp_port}"',
        "[[listener]]",
        'protocol = "management"',
        f'address = "127.0.0.1:{place.management_port}"',
        f"[auth.users.{LOGIN}]",
        f'password = "{secret.hashed}"',
        "administrator = true",
        "link = true",
    ]
    for path in topology.paths.values():
        if path.is_link and path.first == site:
            row = link_row(path, topology, ground, secret)
            # JSON's texts, numbers and lists of these are TOML's, too.
            lines += ["[[link]]", *(f"{key} = {json.dumps(one)}" for key, one in row.items())]
    return "\n".join(lines) + "\n"


def link_row(path: Path, topology: Topology, ground: Ground, secret: Secret) -> dict[str, Any]:
    """The link of a path, as its first site is told: both directions over what it dials; empty when nothing flows."""
    host, port = ground.address(path, path.first)
    exchanges = [one.address for one in topology.channels if not one.is_queue]
    pushed, pulled = [], []
    for channel in topology.channels:
        if (path.first, path.second) in channel.hops:
            pushed.append(channel.address)
        if (path.second, path.first) in channel.hops:
            pulled.append(channel.address)
    keys = {
        "push-exchanges": exchanges,
        "pull-exchanges": exchanges,
        "push-queues": pushed,
        "pull-queues": pulled,
    }
    carried = {key: names for key, names in keys.items() if names}
    if not carried:
        return {}
    return {
        "name": path.name,
        "address": [f"{host}:{port}"],
        "user": LOGIN,
        "password": secret.password,
        "connections": path.connections,
        "retry": f"{RETRY_SECONDS:g}s",
        "retry-max": f"{RETRY_SECONDS_MAX:g}s",
        **carried,
    }


def declarations(site: str, topology: Topology) -> list[list[Any]]:
    """What the agent of a site declares: exchanges wherever a channel may pass, queues where it ends."""
    found: list[list[Any]] = []
    for channel in topology.channels:
        address = channel.address
        ends = {topology.sites[one].broker for one in channel.targets}
        if channel.is_queue:
            stops = {topology.sites[channel.sources[0]].broker, *ends}
            stops |= {one for hop in channel.hops for one in hop}
            if site in stops:
                found.append(["queue.declare", _queue(address)])
            continue
        declare = [0, address, "topic", False, True, False, False, False, {}]
        found.append(["exchange.declare", declare])
        for target in channel.targets:
            if topology.sites[target].broker == site:
                queue = channel.queue_of(topology.sites[target])
                found.append(["queue.declare", _queue(queue)])
                found.append(["queue.bind", [0, queue, address, "#", False, {}]])
    return found


def _queue(name: str) -> list[Any]:
    return [0, name, False, True, False, False, False, {}]


def agent_plan(
    site: str, topology: Topology, ground: Ground, secret: Secret, numbers: dict[str, list[int]]
) -> dict[str, Any]:
    """What the agent of a site is told; `numbers` are the producers' by `CHANNEL@SITE`."""
    place = ground.places[site]
    uses = topology.sites[site].uses
    host, port = "127.0.0.1", place.amqp_port
    if uses:
        path = topology.path_between(site, uses)
        assert path is not None, "the topology was checked"
        host, port = ground.address(path, site)
    return {
        "site": site,
        "host": host,
        "port": port,
        "management": 0 if uses else place.management_port,
        "login": LOGIN,
        "password": secret.password,
        "sample": topology.sample,
        "declare": [] if uses else declarations(site, topology),
        "producers": [
            _producer(channel, number)
            for channel in topology.channels
            if site in channel.sources
            for number in numbers[f"{channel.name}@{site}"]
        ],
        "consumers": [
            {
                "channel": channel.name,
                "queue": channel.queue_of(topology.sites[site]),
                "prefetch": channel.prefetch,
                "body_bytes": channel.body_bytes,
            }
            for channel in topology.channels
            if site in channel.targets
            for _ in range(channel.consumers)
        ],
    }


def _producer(channel: Channel, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "channel": channel.name,
        "exchange": "" if channel.is_queue else channel.address,
        "key": channel.address if channel.is_queue else "",
        "rate": channel.rate,
        "messages": channel.messages,
        "window": channel.window,
        "body_bytes": channel.body_bytes,
    }


def producer_numbers(topology: Topology) -> dict[str, list[int]]:
    """A number for each producer, by `CHANNEL@SITE`."""
    found: dict[str, list[int]] = {}
    last = 0
    for channel in topology.channels:
        for site in channel.sources:
            found[f"{channel.name}@{site}"] = list(range(last + 1, last + 1 + channel.producers))
            last += channel.producers
    return found


@final
class BrokerProcess:
    """The broker of a site."""

    def __init__(self, site: str, place: Place, folder: FilePath, config: str) -> None:
        self.site = site
        self._place = place
        self._folder = folder
        self._log_path = folder / "broker.log"
        folder.mkdir(parents=True, exist_ok=True)
        self._config_path = folder / "gridmsg.toml"
        self._config_path.write_text(config)
        self._process: subprocess.Popen[bytes] | None = None
        self._cpu_before = 0.0
        self._cpu_last = 0.0
        self.kill_count = 0
        self.peak_bytes = 0

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and return at once."""
        words = [
            *(sys.executable, "-m", "bench.lab.inside", self._place.namespace),
            *(sys.executable, "-m", "broker", "broker", "run"),
            *("--data", str(self._folder / "store"), "--config", str(self._config_path)),
        ]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self, ground: Ground) -> None:
        """Return when it takes connections; raises SiteFailed."""
        deadline = time.monotonic() + START_SECONDS_MAX
        address = ("127.0.0.1", self._place.amqp_port)
        while True:
            try:
                with ground.at(self.site):
                    socket.create_connection(address, 1.0).close()
            except OSError:
                if not self.is_running or time.monotonic() > deadline:
                    raise SiteFailed(
                        f"the broker of {self.site} did not start: {self.log()}"
                    ) from None
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.usage()
        self._end(signal.SIGKILL)
        self.kill_count += 1

    def stop(self) -> None:
        """Stop it cleanly."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        end_process(process, number)
        self._cpu_before += self._cpu_last
        self._cpu_last = 0.0

    def usage(self) -> dict[str, float]:
        """Resident memory (MB) and processor time so far (s), over all its lives; zero memory while it is down."""
        memory_bytes = 0
        if self._process is not None:
            try:
                pid = self._process.pid
                self._cpu_last = cpu_seconds(pid)
                statm = FilePath(f"/proc/{pid}/statm").read_text()
                memory_bytes = int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):
                memory_bytes = 0
        self.peak_bytes = max(self.peak_bytes, memory_bytes)
        return {
            "memory_mb": memory_bytes / 1e6,
            "cpu_seconds": self._cpu_before + self._cpu_last,
        }

    def log(self) -> str:
        """The end of what it wrote."""
        return self._log_path.read_text(errors="replace")[-LOG_CHARACTERS:]


@final
class AgentProcess:
    """The agent of a site: told orders, and read line by line without waiting."""

    def __init__(self, site: str, namespace: str, plan: dict[str, Any], folder: FilePath) -> None:
        self.site = site
        folder.mkdir(parents=True, exist_ok=True)
        self._log_path = folder / "agent.log"
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bench.lab.inside", namespace),
                    *(sys.executable, "-m", "bench.lab.agent"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None, "it was opened with a pipe"
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = b""
        self._tell(plan)

    @property
    def fd(self) -> int:
        """To wait for what it says."""
        return self._out.fileno()

    def order(self, what: str, **fields: Any) -> None:
        """Tell it what to do."""
        self._tell({"do": what, **fields})

    def read(self) -> list[dict[str, Any]]:
        """What it said since; raises SiteFailed when it has ended."""
        try:
            piece = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return []
        if not piece:
            raise SiteFailed(f"the agent of {self.site} ended: {self.log()}")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()

    def log(self) -> str:
        """The end of what it complained about."""
        return self._log_path.read_text(errors="replace")[-LOG_CHARACTERS:]

    def _tell(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None, "it was opened with a pipe"
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise SiteFailed(f"the agent of {self.site} ended: {self.log()}") from None
