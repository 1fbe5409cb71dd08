"""What an experiment stands on: where each site is, how its broker and clients reach others, and what is between them.

Two grounds with one face: `PacketGround` (a namespace for each site, the packet relay; Linux and root) and `StreamGround`
(all on loopback, the TCP relay; anywhere).  Invariant: `close` removes all that was made, whatever went before.
Tests: tests/interop/test_lab_packets.py, tests/interop/test_lab_run.py.
"""

from __future__ import annotations

import contextlib
import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import Any, Final, final

from bench.lab import tun
from bench.lab.namespaces import Namespaces, objection
from bench.lab.relay import Relay
from bench.lab.topology import Path, Topology
from broker.errors import ConfigError

AMQP_PORT: Final = 5672
MANAGEMENT_PORT: Final = 15672
HERE: Final = "-"
"""The namespace that we are in."""
_PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives out by itself."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a site's processes run and its broker listens."""

    namespace: str
    listen_host: str
    amqp_port: int
    management_port: int


class Ground(ABC):
    """Places for the sites, and the lines between them."""

    kind = ""
    relay: Relay

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}

    @abstractmethod
    def address(self, path: Path, site: str) -> tuple[str, int]:
        """Where a site at one end of a path finds the broker at the other end."""

    @contextmanager
    def at(self, site: str) -> Iterator[None]:
        """Open sockets as that site would."""
        yield

    def cut(self, path: Path, *, is_reset: bool) -> None:
        """Let nothing pass; `is_reset`: kill the connections too."""
        self.relay.cut(path.name, is_reset=is_reset)

    @abstractmethod
    def close(self) -> None:
        """Remove everything."""


@final
class PacketGround(Ground):
    """A namespace for each site; packets between TUN devices."""

    kind = "packets"

    def __init__(self, topology: Topology, folder: FilePath) -> None:
        super().__init__()
        self._addresses: dict[tuple[str, str], str] = {}
        self._namespaces = Namespaces()
        try:
            for site in topology.sites:
                name = self._namespaces.add(site, topology.socket_bytes)
                place = Place(name, "0.0.0.0", AMQP_PORT, MANAGEMENT_PORT)  # noqa: S104 - inside a namespace
                self.places[site] = place
            plan = []
            for index, path in enumerate(topology.paths.values()):
                device = f"wan{index}"
                for number, site in enumerate((path.first, path.second), 1):
                    self._addresses[path.name, site] = f"10.77.{index}.{number}"
                devices = [
                    (self.places[site].namespace, device) for site in (path.first, path.second)
                ]
                is_joined = not _will_drop(topology, path)
                line = asdict(path.line)
                plan.append(
                    {"name": path.name, "line": line, "devices": devices, "is_joined": is_joined}
                )
            self.relay = Relay(
                "bench.lab.packets",
                {"seed": topology.seed, "paths": plan},
                folder / "relay.log",
            )
            for index, path in enumerate(topology.paths.values()):
                for site in (path.first, path.second):
                    address = self._addresses[path.name, site]
                    self._namespaces.raise_device(
                        self.places[site].namespace, f"wan{index}", address
                    )
        except BaseException:
            self.close()
            raise

    def address(self, path: Path, site: str) -> tuple[str, int]:
        other = path.second if site == path.first else path.first
        return self._addresses[path.name, other], AMQP_PORT

    @contextmanager
    def at(self, site: str) -> Iterator[None]:
        with tun.inside(self.places[site].namespace):
            yield

    def cut(self, path: Path, *, is_reset: bool) -> None:
        super().cut(path, is_reset=is_reset)
        if is_reset:
            for site in (path.first, path.second):
                host, _ = self.address(path, site)
                self._namespaces.reset_connections(self.places[site].namespace, host)

    def close(self) -> None:
        if hasattr(self, "relay"):
            self.relay.close()
        self._namespaces.close()


@final
class StreamGround(Ground):
    """Everything on loopback, each site with ports of its own."""

    kind = "stream"

    def __init__(self, topology: Topology, folder: FilePath) -> None:
        super().__init__()
        ports = _free_ports(2 * len(topology.sites), topology.seed)
        for site in topology.sites:
            self.places[site] = Place(HERE, "127.0.0.1", next(ports), next(ports))
        plan: list[dict[str, Any]] = []
        for path in topology.paths.values():
            targets = [
                None if topology.sites[other].uses else ("127.0.0.1", self.places[other].amqp_port)
                for other in (path.second, path.first)
            ]
            plan.append({"name": path.name, "line": asdict(path.line), "targets": targets})
        self.relay = Relay(
            "bench.lab.stream", {"seed": topology.seed, "paths": plan}, folder / "relay.log"
        )
        self._ports: dict[str, list[int]] = self.relay.answer["ready"]

    def address(self, path: Path, site: str) -> tuple[str, int]:
        return "127.0.0.1", self._ports[path.name][0 if site == path.first else 1]

    def close(self) -> None:
        self.relay.close()


def lay(topology: Topology, wanted: str, folder: FilePath) -> Ground:
    """Make the ground that is wanted (`auto`: packets where it can be); raises ConfigError, RelayFailed, NoNamespaces."""
    kind = wanted
    if wanted in ("auto", "packets"):
        why_not = objection()
        if why_not is not None and wanted == "packets":
            raise ConfigError(f"the packet relay cannot run: {why_not}")
        kind = "packets" if why_not is None else "stream"
    if kind == "packets":
        return PacketGround(topology, folder)
    needed = topology.needs_packets()
    if needed:
        raise ConfigError(f"{needed} needs the packet relay (Linux, root): {objection() or wanted}")
    return StreamGround(topology, folder)


def _will_drop(topology: Topology, path: Path) -> bool:
    """Whether the line drops packets at any time, so that each must be one segment."""
    if path.line.is_by_packet:
        return True
    return any(
        event.subject == path.name and {"loss", "bytes_per_second"} & event.fields.keys()
        for event in topology.events
    )


def _free_ports(count: int, seed: int) -> Iterator[int]:
    """Ports of loopback that nobody listens on now, in an order of chance so that two runs seldom meet."""
    found: list[int] = []
    candidates = list(_PORTS)
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return iter(found)
