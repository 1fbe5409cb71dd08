"""What an experiment is: sites, the paths between them, channels of messages, and events, read from one TOML file.

Everything has a default but the paths and what flows; sites need no row of their own.  An unknown key, a wrong value or a
site that no path leads to is a ConfigError that names file, line, key and what is allowed.  Shapes (chain, ring, star, mesh) are
unfolded here: the rest of the lab sees single paths.  Tests: tests/unit/bench/lab/test_topology.py.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import combinations, pairwise
from pathlib import Path as FilePath
from typing import Annotated, Final, Literal, final

from msgspec import Meta, field

from bench.lab.way import NS, Line
from broker.errors import ConfigError
from broker.setting_types import Count, Duration, Section, Size
from broker.settings import Document

SHIPPED: Final = FilePath(__file__).parent / "topologies"
SITES_MAX: Final = 60
PATHS_MAX: Final = 200
CHANNELS_MAX: Final = 50
BODY_BYTES_MIN: Final = 24
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,19}\Z")
_BANDWIDTH: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(kbit|mbit|gbit)\s*\Z", re.IGNORECASE)
_BITS: Final = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}

Share = Annotated[float, Meta(ge=0, le=1)]
Cut = Literal["silent", "reset"]


class LabSection(Section, frozen=True, kw_only=True):
    """`[lab]`: the experiment as a whole."""

    title: Annotated[str, Meta(description="One line for lists and the report.")] = ""
    duration: Annotated[
        Duration, Meta(description="How long messages are published.", ge=0.1, le=86_400)
    ] = 30.0
    settle: Annotated[
        Duration,
        Meta(description="How long nothing may arrive before what is missing counts as lost."),
    ] = 60.0
    sample: Annotated[Duration, Meta(description="Between two samples.", ge=0.1, le=60)] = 1.0
    seed: Annotated[int, Meta(description="Of everything that is left to chance.", ge=0)] = 1
    relay: Annotated[
        Literal["auto", "packets", "stream"],
        Meta(
            description="packets: real TCP over delayed packets (Linux, root); stream: a TCP relay, anywhere; "
            "auto: packets where it can."
        ),
    ] = "auto"
    socket_buffer: Annotated[
        Size,
        Meta(description="Most that a socket's buffers grow to (packets); 0: the kernel's limits."),
    ] = 64 << 20


class SiteSection(Section, frozen=True, kw_only=True):
    """`[[site]]`: a place; only needed where it is not simply a broker."""

    name: str
    uses: Annotated[
        str,
        Meta(description="No broker here: clients use the broker of that site, across the path."),
    ] = ""


class PathSection(Section, frozen=True, kw_only=True):
    """`[[path]]`: the line between two sites, or a shape of several lines that are alike."""

    between: Annotated[list[str], Meta(description="Sites, two or more.", min_length=2)]
    shape: Annotated[
        Literal["chain", "ring", "star", "mesh"],
        Meta(description="Which of them are joined; star: the first with each other one."),
    ] = "chain"
    round_trip: Annotated[Duration, Meta(description="There and back.", le=60)] = 0.0
    jitter: Annotated[Duration, Meta(description="Added to each way by chance, up to this.")] = 0.0
    loss: Annotated[Share, Meta(description="Share of packets lost, each way.")] = 0.0
    reorder: Annotated[Share, Meta(description="Share of packets that come early.")] = 0.0
    reorder_early: Annotated[Duration, Meta(description="How early.")] = 0.001
    bandwidth: Annotated[str, Meta(description="100Mbit, each way; empty: no limit.")] = ""
    queue: Annotated[Size, Meta(description="Waits at the bandwidth; more is dropped.")] = 1 << 20
    link: Annotated[bool, Meta(description="Whether the brokers are linked over it.")] = True
    connections: Annotated[
        int,
        Meta(
            description="TCP connections of the link that act as one; 0: the broker decides.",
            ge=0,
            le=16,
        ),
    ] = 0


class ChannelSection(Section, frozen=True, kw_only=True):
    """`[[channel]]`: a stream of messages with its producers and consumers."""

    name: str = ""
    from_: Annotated[list[str] | str, Meta(description="Site or sites that publish.")]
    to: Annotated[list[str] | str, Meta(description="Site or sites that consume.")]
    by: Annotated[
        Literal["exchange", "queue"],
        Meta(
            description="exchange: each consuming site gets every message; queue: it is moved to one site."
        ),
    ] = "exchange"
    rate: Annotated[
        float, Meta(description="Messages a second of each producer; 0: as fast as it goes.", ge=0)
    ] = 0.0
    messages: Annotated[
        int, Meta(description="Each producer stops after these; 0: at the end of the time.", ge=0)
    ] = 0
    size: Annotated[Size, Meta(description="Of a body.", ge=BODY_BYTES_MIN, le=1 << 20)] = 1024
    producers: Annotated[Count, Meta(description="At each publishing site.", le=100)] = 1
    consumers: Annotated[Count, Meta(description="At each consuming site, sharing.", le=100)] = 1
    window: Annotated[
        Count, Meta(description="Messages of a producer that wait for their confirms.")
    ] = 2000
    prefetch: Annotated[Count, Meta(description="Of a consumer.", le=65_535)] = 1000
    consume: Annotated[
        Literal["live", "after"],
        Meta(description="after: consumers begin when publishing and all events are over."),
    ] = "live"


class EventSection(Section, frozen=True, kw_only=True):
    """`[[event]]`: something that happens at a time; one of cut, kill, change, unlink."""

    at: Duration
    cut: Annotated[list[str], Meta(description="A path, by its two sites: nothing passes.")] = (
        field(default_factory=list)
    )
    kill: Annotated[str, Meta(description="A site: its broker is killed (kill -9).")] = ""
    change: Annotated[list[str], Meta(description="A path: as told from here on.")] = field(
        default_factory=list
    )
    unlink: Annotated[
        list[str], Meta(description="A path: its link is taken away, with what waits in it.")
    ] = field(default_factory=list)
    for_: Annotated[
        Duration,
        Meta(description="Until the path is mended, the broker started again, the link put back."),
    ] = 0.0
    how: Annotated[
        Cut, Meta(description="silent: packets vanish; reset: connections are killed too.")
    ] = "silent"
    round_trip: Duration | None = None
    jitter: Duration | None = None
    loss: Share | None = None
    bandwidth: str | None = None


class ChaosSection(Section, frozen=True, kw_only=True):
    """`[chaos]`: cuts and kills at moments that chance decides, the same ones for the same seed."""

    cuts: Annotated[int, Meta(description="Of any path that carries a link.", ge=0, le=10_000)] = 0
    kills: Annotated[int, Meta(description="Of any broker.", ge=0, le=10_000)] = 0
    unlinks: Annotated[int, Meta(description="Links taken away and put back.", ge=0, le=10_000)] = 0
    cut_for: Annotated[Duration, Meta(description="At most.", ge=0.01)] = 2.0
    kill_for: Annotated[Duration, Meta(description="At most.", ge=0.0)] = 1.0
    unlink_for: Annotated[Duration, Meta(description="At most.", ge=0.01)] = 2.0


@final
@dataclass(frozen=True, slots=True)
class Site:
    """A place; `uses` empty: it has a broker."""

    name: str
    uses: str = ""

    @property
    def broker(self) -> str:
        """The site whose broker its clients use."""
        return self.uses or self.name


@final
@dataclass(frozen=True, slots=True)
class Path:
    """One line between two sites; `first` dials when it carries a link."""

    first: str
    second: str
    line: Line
    is_link: bool
    connections: int = 0

    @property
    def name(self) -> str:
        """The two sites, joined by `--`, because site names may have one hyphen."""
        return f"{self.first}--{self.second}"


@final
@dataclass(frozen=True, slots=True)
class Channel:
    """A stream of messages; `hops` are the moves of a queue from site to site, empty for an exchange."""

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    is_queue: bool
    rate: float
    messages: int
    body_bytes: int
    producers: int
    consumers: int
    window: int
    prefetch: int
    is_live: bool
    hops: tuple[tuple[str, str], ...] = ()

    @property
    def address(self) -> str:
        """Name of its exchange, or of the queue that is moved."""
        return f"lab.{self.name}"

    def queue_of(self, site: Site) -> str:
        """The queue that a target's consumers use; one of its own where several sites use one broker."""
        return f"{self.address}.{site.name}" if site.uses and not self.is_queue else self.address


@final
@dataclass(frozen=True, slots=True)
class Event:
    """What happens `at` seconds after publishing began; `subject` is a path's or a site's name."""

    at: float
    kind: Literal["cut", "mend", "kill", "start", "change", "unlink", "link"]
    subject: str
    is_reset: bool = False
    fields: dict[str, float] = dataclass_field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Chaos:
    """How much is left to chance."""

    cuts: int
    kills: int
    cut_seconds: float
    kill_seconds: float
    unlinks: int = 0
    unlink_seconds: float = 2.0


@final
@dataclass(frozen=True, slots=True)
class Topology:
    """An experiment, whole and checked."""

    title: str
    duration: float
    settle: float
    sample: float
    seed: int
    relay: str
    socket_bytes: int
    sites: dict[str, Site]
    paths: dict[str, Path]
    channels: tuple[Channel, ...]
    events: tuple[Event, ...]
    chaos: Chaos
    text: str = ""

    @property
    def brokers(self) -> list[str]:
        """Sites with a broker, in order."""
        return [one.name for one in self.sites.values() if not one.uses]

    def path_between(self, one: str, other: str) -> Path | None:
        """The path that joins two sites."""
        return self.paths.get(f"{one}--{other}") or self.paths.get(f"{other}--{one}")

    def needs_packets(self) -> str:
        """What of it no TCP relay can do, or nothing."""
        for path in self.paths.values():
            if path.line.loss or path.line.reorder:
                return f"loss or reordering on the path {path.name}"
        return next(("an event that changes loss" for e in self.events if e.fields.get("loss")), "")


def read(path: FilePath) -> Topology:
    """Read a topology; raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}: name a topology file, or one of `lab list`") from None
    return parse(text, str(path))


def find(name: str) -> FilePath:
    """The file that a name or path means: a file, or one of those that ship; raises ConfigError."""
    direct = FilePath(name)
    if direct.is_file():
        return direct
    shipped = SHIPPED / f"{name}.toml"
    if _NAME.match(name) and shipped.is_file():
        return shipped
    known = ", ".join(one.stem for one in shipped_files())
    raise ConfigError(f"{name}: no such file, nor one of the topologies that ship: {known}")


def shipped_files() -> list[FilePath]:
    """The topologies that ship, in order of their names."""
    return sorted(SHIPPED.glob("*.toml"))


def parse(text: str, file: str = "") -> Topology:
    """Read a topology from text; raises ConfigError."""
    return _Reader(Document(text, file)).topology(text)


@final
class _Reader:
    """Reads one document; each method one kind of row."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._sites: dict[str, Site] = {}
        self._paths: dict[str, Path] = {}

    def topology(self, text: str) -> Topology:
        document = self._document
        lab = document.section("lab", LabSection)
        rows = document.rows("path", PathSection)
        for number, path_row in enumerate(rows):
            self._add_paths(number, path_row)
        for number, site_row in enumerate(document.rows("site", SiteSection)):
            self._add_site(number, site_row)
        if not self._sites:
            raise self._error(("path",), 'name at least one: [[path]] between = ["one", "other"]')
        if len(self._sites) > SITES_MAX or len(self._paths) > PATHS_MAX:
            raise self._error(("path",), f"at most {SITES_MAX} sites and {PATHS_MAX} paths")
        channel_rows = document.rows("channel", ChannelSection)
        if not 0 < len(channel_rows) <= CHANNELS_MAX:
            raise self._error(
                ("channel",), f"1 to {CHANNELS_MAX} of them: [[channel]] from = …, to = …"
            )
        channels = [self._channel(number, row) for number, row in enumerate(channel_rows)]
        for number, one in enumerate(channels):
            if one.name in [other.name for other in channels[:number]]:
                raise self._error(("channel", number, "name"), f"{one.name} is there twice")
        events: list[Event] = []
        for number, event_row in enumerate(document.rows("event", EventSection)):
            events += self._events(number, event_row, lab.duration)
        chaos = document.section("chaos", ChaosSection)
        document.refuse_rest(())
        return Topology(
            title=lab.title,
            duration=lab.duration,
            settle=lab.settle,
            sample=lab.sample,
            seed=lab.seed,
            relay=lab.relay,
            socket_bytes=lab.socket_buffer,
            sites=self._sites,
            paths=self._paths,
            channels=tuple(channels),
            events=tuple(sorted(events, key=lambda one: one.at)),
            chaos=Chaos(
                *(chaos.cuts, chaos.kills, chaos.cut_for, chaos.kill_for),
                *(chaos.unlinks, chaos.unlink_for),
            ),
            text=text,
        )

    def _add_paths(self, number: int, row: PathSection) -> None:
        where = ("path", number, "between")
        for name in row.between:
            self._check_name(where, name)
            self._sites.setdefault(name, Site(name))
        if len(set(row.between)) < len(row.between):
            raise self._error(where, "each site once: a ring closes by itself")
        if row.shape == "ring" and len(row.between) < 3:
            raise self._error(where, "a ring has at least three sites")
        for one, other in _joined(row.between, row.shape):
            line = Line(
                delay_ns=_ns(row.round_trip / 2),
                jitter_ns=_ns(row.jitter),
                loss=row.loss,
                reorder=row.reorder,
                reorder_ns=_ns(row.reorder_early),
                bytes_per_second=self._bandwidth(("path", number, "bandwidth"), row.bandwidth),
                queue_bytes=row.queue,
            )
            if self._path(one, other) is not None:
                raise self._error(where, f"{one} and {other} have a path already")
            path = Path(one, other, line, row.link, row.connections)
            self._paths[path.name] = path

    def _add_site(self, number: int, row: SiteSection) -> None:
        self._check_name(("site", number, "name"), row.name)
        if row.uses:
            where = ("site", number, "uses")
            used = self._sites.get(row.uses)
            if used is None or used.uses or row.uses == row.name:
                raise self._error(where, f"{row.uses} is no site with a broker: {self._known()}")
            path = self._path(row.name, row.uses)
            if path is None:
                raise self._error(where, f"no path joins {row.name} and {row.uses}")
            linked = [
                one.name
                for one in self._paths.values()
                if one.is_link and row.name in (one.first, one.second)
            ]
            if linked:
                raise self._error(where, f"no broker here: give {linked[0]} link = false")
        self._sites[row.name] = Site(row.name, row.uses)

    def _channel(self, number: int, row: ChannelSection) -> Channel:
        place = ("channel", number)
        name = row.name or f"channel-{number + 1}"
        self._check_name((*place, "name"), name)
        sources = self._site_list((*place, "from"), row.from_)
        targets = self._site_list((*place, "to"), row.to)
        hops: tuple[tuple[str, str], ...] = ()
        begins = [self._sites[one].broker for one in sources]
        ends = [self._sites[one].broker for one in targets]
        if row.by == "queue":
            if len(set(begins)) > 1 or len(set(ends)) > 1:
                raise self._error((*place, "by"), "a queue is moved from one site to one other")
            hops = tuple(pairwise(self._route(begins[0], ends[0], place)))
        for begin in begins:
            for end in ends:
                self._route(begin, end, place)
        return Channel(
            name=name,
            sources=sources,
            targets=targets,
            is_queue=row.by == "queue",
            rate=row.rate,
            messages=row.messages,
            body_bytes=row.size,
            producers=row.producers,
            consumers=row.consumers,
            window=row.window,
            prefetch=row.prefetch,
            is_live=row.consume == "live",
            hops=hops,
        )

    def _route(self, begin: str, end: str, place: tuple[str | int, ...]) -> list[str]:
        """Brokers from one to another over the fewest links; raises ConfigError when there is no way."""
        before: dict[str, str] = {begin: ""}
        waiting = deque([begin])
        while waiting:
            site = waiting.popleft()
            for path in self._paths.values():
                if path.is_link and site in (path.first, path.second):
                    other = path.second if site == path.first else path.first
                    if other not in before:
                        before[other] = site
                        waiting.append(other)
        if end not in before:
            raise self._error((*place, "to"), f"no links lead from {begin} to {end}")
        route = [end]
        while before[route[-1]]:
            route.append(before[route[-1]])
        return route[::-1]

    def _events(self, number: int, row: EventSection, duration: float) -> list[Event]:
        place = ("event", number)
        if row.at > duration:
            raise self._error((*place, "at"), f"is after the end of publishing ({duration:g} s)")
        if sum(map(bool, (row.cut, row.kill, row.change, row.unlink))) != 1:
            raise self._error(place, "one of cut, kill, change and unlink expected")
        if row.kill:
            site = self._sites.get(row.kill)
            if site is None or site.uses:
                raise self._error((*place, "kill"), f"{row.kill} has no broker: {self._known()}")
            return [Event(row.at, "kill", row.kill), Event(row.at + row.for_, "start", row.kill)]
        if row.cut:
            name = self._path_name((*place, "cut"), row.cut)
            cut = Event(row.at, "cut", name, row.how == "reset")
            return [cut, Event(row.at + (row.for_ or 1.0), "mend", name)]
        if row.unlink:
            name = self._path_name((*place, "unlink"), row.unlink)
            if not self._paths[name].is_link:
                raise self._error((*place, "unlink"), f"{name} has no link")
            taken = Event(row.at, "unlink", name)
            return [taken, Event(row.at + (row.for_ or 1.0), "link", name)]
        return self._changes(place, row)

    def _changes(self, place: tuple[str | int, ...], row: EventSection) -> list[Event]:
        name = self._path_name((*place, "change"), row.change)
        fields: dict[str, float] = {}
        if row.round_trip is not None:
            fields["delay_ns"] = _ns(row.round_trip / 2)
        if row.jitter is not None:
            fields["jitter_ns"] = _ns(row.jitter)
        if row.loss is not None:
            fields["loss"] = row.loss
        if row.bandwidth is not None:
            fields["bytes_per_second"] = self._bandwidth((*place, "bandwidth"), row.bandwidth)
        if not fields:
            raise self._error(place, "say what changes: round-trip, jitter, loss or bandwidth")
        line = self._paths[name].line
        before = {key: float(getattr(line, key)) for key in fields}
        found = [Event(row.at, "change", name, fields=fields)]
        if row.for_:
            found.append(Event(row.at + row.for_, "change", name, fields=before))
        return found

    # -- pieces --------------------------------------------------------------------------------

    def _path(self, one: str, other: str) -> Path | None:
        return self._paths.get(f"{one}--{other}") or self._paths.get(f"{other}--{one}")

    def _path_name(self, where: tuple[str | int, ...], ends: list[str]) -> str:
        path = self._path(ends[0], ends[1]) if len(ends) == 2 else None
        if path is None:
            known = ", ".join(f"[{one.first}, {one.second}]" for one in self._paths.values())
            raise self._error(where, f"{ends} is no path: {known}")
        return path.name

    def _site_list(self, where: tuple[str | int, ...], names: list[str] | str) -> tuple[str, ...]:
        found = (names,) if isinstance(names, str) else tuple(names)
        for name in found:
            if name not in self._sites:
                raise self._error(where, f"no site {name!r}: {self._known()}")
        if not found or len(set(found)) < len(found):
            raise self._error(where, "at least one site, each once")
        return found

    def _known(self) -> str:
        return "sites are " + ", ".join(self._sites)

    def _check_name(self, where: tuple[str | int, ...], name: str) -> None:
        if not _NAME.match(name) or "--" in name:
            text = "1 to 20 lower-case letters, digits and single hyphens expected"
            raise self._error(where, f"{name!r} is not allowed: {text}")

    def _bandwidth(self, where: tuple[str | int, ...], text: str) -> float:
        if not text:
            return 0.0
        found = _BANDWIDTH.match(text)
        if found is None or float(found[1]) == 0:
            raise self._error(where, f"{text!r} is not allowed: such as 100Mbit expected")
        return float(found[1]) * _BITS[found[2].lower()] / 8

    def _error(self, where: tuple[str | int, ...], text: str) -> ConfigError:
        return self._document.error(where, text)


def _joined(names: list[str], shape: str) -> list[tuple[str, str]]:
    """The pairs of sites that a shape joins."""
    if shape == "star":
        return [(names[0], other) for other in names[1:]]
    if shape == "mesh":
        return list(combinations(names, 2))
    pairs = list(pairwise(names))
    return [*pairs, (names[-1], names[0])] if shape == "ring" else pairs


def _ns(seconds: float) -> int:
    return round(seconds * NS)
