"""The broker's frozen settings, with every limit: what `[broker]`, `[store]`, `[[listener]]`, … mean.

Rooms below never see this module: the server hands each its own limits as arguments.  Sections of the agents
are not read here; their names are known, so that a typing error in a section name is still refused.
Sections that a later version will have are refused with words.  Tests: tests/unit/broker/test_config.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from msgspec import Meta, field

from broker.core.broker import CoreLimits
from broker.core.destination import DEFAULT_ADDRESSES, Address
from broker.errors import ConfigError
from broker.link.settings import LinkSettings
from broker.link_config import LinkSection, link_settings
from broker.settings import Count, Document, Duration, Secret, Section, Size

if TYPE_CHECKING:
    from broker.net.tls_files import TlsFiles
    from broker.session.amqp_connection import AmqpLimits
    from broker.session.auth import Accounts
    from broker.session.stomp_connect import StompLimits
    from store.settings import StoreSettings

DEFAULT_DATA = "data"
FILE_NAME = "gridmsg.toml"
PORT_OFFSET_MAX = 3921
AGENT_SECTIONS = ("collector", "database", "summary", "replay")
DEFAULT_PORTS = {"amqp": 5672, "stomp": 61613, "websocket": 15674, "management": 15672}
TLS_PORTS = {"amqp": 5671, "stomp": 61614, "websocket": 15673, "management": 15671}
COLLECTOR_PORT = 8880
LATER_SECTIONS = {
    "archive": "the archive agent is not in this version; take the section out",
}
EXCHANGE_KIND = Literal["direct", "fanout", "topic", "headers"]


class BrokerSection(Section, frozen=True, kw_only=True):
    """`[broker]`: the broker as a whole."""

    name: Annotated[
        str, Meta(description="Name shown to peers; empty: gridmsg@HOST.", max_length=200)
    ] = ""
    data: Annotated[
        Path | None,
        Meta(description="Data folder, from this file's folder on; `--data` goes before it."),
    ] = None
    vhosts: Annotated[
        list[str], Meta(description="Virtual hosts; `/` always exists.", max_length=1000)
    ] = field(default_factory=lambda: ["/"])
    window_size: Annotated[
        Size, Meta(description="Bodies a queue keeps in memory; more lies on disk only.", ge=65536)
    ] = 8 << 20
    memory_limit: Annotated[
        Size,
        Meta(
            description="What messages may take in memory, all queues together; over it publishers wait.",
            ge=1 << 20,
        ),
    ] = 256 << 20
    window_messages: Annotated[
        Count, Meta(description="Messages a queue keeps in memory; more lie on disk only.", ge=100)
    ] = 20_000
    disk_reserve: Annotated[Size, Meta(description="Free space below which publishers wait.")] = (
        256 << 20
    )
    names_max: Annotated[
        Count, Meta(description="Queues, or exchanges, or bindings of one exchange, in a vhost.")
    ] = 100_000


class StoreSection(Section, frozen=True, kw_only=True):
    """`[store]`: the journal under DATA/broker."""

    sync: Annotated[
        Literal["always", "interval", "never"],
        Meta(
            description="When a confirmed message is on stable storage: before its confirm, within "
            "`sync-interval`, or when the system likes; the last two lose confirmed messages with the power."
        ),
    ] = "always"
    sync_interval: Annotated[Duration, Meta(description="For sync = interval.", ge=0.001)] = 0.2
    deliver: Annotated[
        Literal["early"],
        Meta(description="A consumer may get a message before its producer has the confirm."),
    ] = "early"
    segment_size: Annotated[Size, Meta(description="One file of the journal.", ge=1 << 20)] = (
        32 << 20
    )
    batch_messages: Annotated[Count, Meta(description="Most messages written by one sync.")] = (
        10_000
    )
    checkpoint_size: Annotated[
        Size, Meta(description="Journal written between two checkpoints.", ge=1 << 20)
    ] = 32 << 20
    checkpoint_records: Annotated[
        Count, Meta(description="Journal records between two checkpoints.")
    ] = 25_000
    cache_size: Annotated[Size, Meta(description="Index pages kept in memory.")] = 4 << 20
    compact_size: Annotated[
        Size, Meta(description="Segments that together take less are not compacted.")
    ] = 128 << 20
    reserve_size: Annotated[
        Size, Meta(description="Space kept for finishing what was begun when the disk is full.")
    ] = 40 << 20


class FailoverSection(Section, frozen=True, kw_only=True):
    """`[failover]`: who may write to the store when several brokers share its folder, and how soon another takes over."""

    locker: Annotated[
        Literal["directory", "postgresql", "none"],
        Meta(
            description="Where the lease is: in the store's folder, in a row of a PostgreSQL database, or nowhere "
            "(a second broker is refused, not made a standby)."
        ),
    ] = "directory"
    lease: Annotated[
        Duration,
        Meta(description="A silent owner loses the store after this long.", ge=0.2, le=600),
    ] = 5.0
    margin: Annotated[
        Duration,
        Meta(
            description="How much earlier the owner itself stops; 0: a tenth of the lease, or what clocks and "
            "file system need if that is more."
        ),
    ] = 0.0
    drift: Annotated[
        float,
        Meta(
            description="How much two hosts' clocks may differ in speed: 0.01 is 1 %.", ge=0, le=0.2
        ),
    ] = 0.01
    prove_death: Annotated[
        bool,
        Meta(
            description="Take over at once from a dead process of this host; false: wait for its lease, as for other hosts."
        ),
    ] = True
    postgresql: Annotated[
        Secret,
        Meta(description="Connection of the locker postgresql: a libpq URL or key=value text."),
    ] = ""
    name: Annotated[
        str,
        Meta(
            description="Row of the locker postgresql: the same for all brokers of one store.",
            min_length=1,
            max_length=200,
        ),
    ] = "gridmsg"


class LimitsSection(Section, frozen=True, kw_only=True):
    """`limits` of a listener: what one peer may send or hold."""

    body_size: Annotated[Size, Meta(description="Body of one message.")] = 16 << 20
    headers: Annotated[Count, Meta(description="Headers of one STOMP frame.")] = 100
    header_size: Annotated[Size, Meta(description="All headers of one STOMP frame.", ge=1024)] = (
        100 << 10
    )
    frame_size: Annotated[
        Count, Meta(description="AMQP frame, in bytes, offered to peers.", ge=4096)
    ] = 131_072
    channels: Annotated[Count, Meta(description="Channels of an AMQP connection.", le=65535)] = 2047
    subscriptions: Annotated[
        Count, Meta(description="Subscriptions of a STOMP connection or an AMQP channel.")
    ] = 10_000
    prefetch_default: Annotated[
        Count, Meta(description="Unacknowledged messages of a STOMP subscription that names none.")
    ] = 10_000
    prefetch_max: Annotated[
        Count, Meta(description="The most a STOMP subscription may name.", le=65535)
    ] = 65_535
    transaction_size: Annotated[
        Size, Meta(description="Bodies held by the open transactions of a peer.")
    ] = 64 << 20
    heart_beat: Annotated[
        int, Meta(description="Seconds between AMQP heart-beats offered; 0: none.", ge=0, le=65535)
    ] = 60
    heart_beat_min: Annotated[
        Duration, Meta(description="Shortest STOMP heart-beat agreed to.", ge=0.01)
    ] = 0.1
    login_timeout: Annotated[Duration, Meta(description="From connecting to login.", ge=0.1)] = 10.0
    acknowledgement_timeout: Annotated[
        Duration,
        Meta(
            description="An AMQP delivery unacknowledged for longer closes its channel; 0: never.",
            ge=0,
        ),
    ] = 1800.0


class TlsSection(Section, frozen=True, kw_only=True):
    """`[tls]`: the broker's certificate, and whose client certificates it takes.  Files are PEM, made by `gridmsg certs`."""

    certificate: Annotated[
        Path | None,
        Meta(description="Certificate with its chain, from this file's folder on."),
    ] = None
    key: Annotated[Path | None, Meta(description="Its private key, without a pass phrase.")] = None
    ca: Annotated[
        Path | None, Meta(description="Authorities whose client certificates are taken.")
    ] = None
    verify: Annotated[
        Literal["none", "optional", "required"],
        Meta(
            description="Client certificates: not asked for, looked at if shown, or refused without. "
            "Nothing is asked for without `ca`."
        ),
    ] = "optional"
    min_version: Annotated[
        Literal["1.2", "1.3"], Meta(description="Oldest version of TLS that is spoken.")
    ] = "1.2"


class ListenerSection(Section, frozen=True, kw_only=True):
    """`[[listener]]`: where the broker listens.  Rows given replace the default ones."""

    protocol: Annotated[
        Literal["amqp", "stomp", "websocket", "management"],
        Meta(description="What is spoken there; websocket is STOMP, at the path /ws."),
    ]
    address: Annotated[
        str,
        Meta(description="HOST:PORT; empty: 127.0.0.1 and the protocol's port, shifted."),
    ] = ""
    tls: Annotated[bool, Meta(description="Speak TLS, with the certificate of `[tls]`.")] = False
    verify: Annotated[
        Literal["none", "optional", "required"] | None,
        Meta(description="Client certificates, where not as in `[tls]`."),
    ] = None
    profile: Annotated[
        Literal["strict", "rabbitmq", "activemq"],
        Meta(description="STOMP: as the specification says, or with another broker's habits."),
    ] = "strict"
    origins: Annotated[
        list[str],
        Meta(description="WebSocket: whose pages may connect, e.g. https://host; empty: all."),
    ] = field(default_factory=list)
    max_connections: Annotated[Count, Meta(description="Connections at one time.")] = 10_000
    limits: LimitsSection = LimitsSection()


class UserSection(Section, frozen=True, kw_only=True):
    """`[auth.users.NAME]`: a login."""

    password: Annotated[
        Secret, Meta(description="Argon2 hash of the password; empty: by certificate only.")
    ] = ""
    administrator: Annotated[bool, Meta(description="May use every vhost's management.")] = False
    link: Annotated[
        bool,
        Meta(description="May open links: what it says of a message's origin is believed."),
    ] = False
    permissions: Annotated[
        dict[str, list[str]],
        Meta(description="vhost = [configure, write, read]: patterns on names."),
    ] = field(default_factory=lambda: {"/": [".*", ".*", ".*"]})


class AuthSection(Section, frozen=True, kw_only=True):
    """`[auth]`: who may log in."""

    guest: Annotated[bool, Meta(description="guest/guest, from loopback addresses only.")] = True
    dn_map: Annotated[
        dict[str, str],
        Meta(
            description="Certificate subject = user, in either spelling. A user whose name is a subject needs no row."
        ),
    ] = field(default_factory=dict)
    users: dict[str, UserSection] = field(default_factory=dict)
    max_strangers: Annotated[
        Count,
        Meta(
            description="Connections of one address (IPv6: network of 64 bits) that have not logged in, over all "
            "listeners."
        ),
    ] = 1000


class AddressSection(Section, frozen=True, kw_only=True):
    """`[[address]]`: what a name without a type means.  Rows given go before the default ones."""

    pattern: Annotated[str, Meta(description="Shell wildcards, with the leading slash.")]
    kind: Annotated[Literal["exchange", "queue"], Meta(description="What it names.")]
    unroutable: Annotated[
        Literal["drop", "dead-letter"],
        Meta(description="What becomes of a message that reaches no queue."),
    ] = "drop"
    exchange_kind: Annotated[EXCHANGE_KIND, Meta(description="Kind it is made with.")] = "fanout"
    durable: Annotated[bool, Meta(description="Whether it is made durable.")] = True


class RouteSection(Section, frozen=True, kw_only=True):
    """`[[route]]`: an exchange, a queue and their binding, made at start."""

    exchange: Annotated[str, Meta(description="Exchange; empty: only the queue is made.")] = ""
    queue: Annotated[str, Meta(description="Queue.", min_length=1)]
    key: Annotated[str, Meta(description="Routing key of the binding.")] = ""


@final
@dataclass(frozen=True, slots=True)
class Listener:
    """A place to listen.  `port` 0 takes a free one."""

    protocol: Literal["amqp", "stomp", "websocket", "management"]
    host: str
    port: int
    connections_max: int
    limits: LimitsSection
    tls: TlsFiles | None = None
    profile: Literal["strict", "rabbitmq", "activemq"] = "strict"
    origins: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Route:
    """What always exists; `exchange` empty: the queue alone."""

    exchange: str
    queue: str
    key: str


@final
@dataclass(frozen=True, slots=True)
class Config:
    """Everything that was configured; the agents' sections wait in `document`."""

    document: Document
    file: Path | None
    data_folder: Path
    port_offset: int
    broker: BrokerSection
    auth: AuthSection
    store: StoreSection
    failover: FailoverSection
    listeners: tuple[Listener, ...]
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    links: tuple[LinkSettings, ...] = ()
    file_time_ns: int = 0

    @property
    def is_file_changed(self) -> bool:
        """Whether the file was written since it was read."""
        return _time_ns(self.file) != self.file_time_ns

    def read_links(self) -> tuple[LinkSettings, ...]:
        """The links that the file names now; raises ConfigError for anything in it that is wrong."""
        return load(self.file, self.data_folder, self.port_offset).links

    @property
    def broker_folder(self) -> Path:
        """The store's folder."""
        return self.data_folder / "broker"

    @property
    def pid_file(self) -> Path:
        """Where a running broker writes its process id."""
        return self.data_folder / "broker.pid"

    def listener(self, protocol: str) -> Listener | None:
        """The first listener of a protocol, or None."""
        return next((one for one in self.listeners if one.protocol == protocol), None)

    def core_limits(self) -> CoreLimits:
        """Bounds of the core."""
        return CoreLimits(
            memory_bytes=self.broker.memory_limit,
            window_bytes=self.broker.window_size,
            window_count=self.broker.window_messages,
            names_max=self.broker.names_max,
        )

    def store_settings(self) -> StoreSettings:
        """Limits and policies of the journal."""
        from store.settings import StoreSettings

        return StoreSettings(
            segment_bytes=self.store.segment_size,
            batch_messages=self.store.batch_messages,
            checkpoint_bytes=self.store.checkpoint_size,
            checkpoint_records=self.store.checkpoint_records,
            cache_bytes=self.store.cache_size,
            sync=self.store.sync,
            sync_interval_seconds=self.store.sync_interval,
            free_bytes_min=self.broker.disk_reserve,
            free_bytes_resume=self.broker.disk_reserve + self.broker.disk_reserve // 4,
            reserve_bytes=self.store.reserve_size,
            compact_bytes_min=self.store.compact_size,
        )

    def stomp_limits(self, listener: Listener) -> StompLimits:
        """What a STOMP peer of the listener may do."""
        from broker.session.stomp_connect import StompLimits
        from broker.session.stomp_profile import PROFILES

        limits = listener.limits
        return StompLimits(
            headers_max=limits.headers,
            header_bytes_max=limits.header_size,
            body_bytes_max=limits.body_size,
            login_seconds=limits.login_timeout,
            heart_beat_ms_min=int(limits.heart_beat_min * 1000),
            subscriptions_max=limits.subscriptions,
            transaction_bytes_max=limits.transaction_size,
            prefetch_default=min(limits.prefetch_default, limits.prefetch_max),
            prefetch_max=limits.prefetch_max,
            profile=PROFILES[listener.profile],
        )

    def amqp_limits(self, listener: Listener) -> AmqpLimits:
        """What an AMQP peer of the listener may do."""
        from broker.session.amqp_connection import AmqpLimits

        limits = listener.limits
        return AmqpLimits(
            message_bytes_max=limits.body_size,
            channels_max=limits.channels,
            frame_bytes_max=limits.frame_size,
            heartbeat_seconds=limits.heart_beat,
            login_seconds=limits.login_timeout,
            acknowledgement_seconds=limits.acknowledgement_timeout,
            channel_consumers_max=limits.subscriptions,
            transaction_bytes_max=limits.transaction_size,
        )

    def accounts(self) -> Accounts:
        """The users who may log in."""
        from broker.session.auth import Accounts
        from broker.session.dn import parse
        from broker.session.passwords import verify

        passwords = {name: user.password for name, user in self.auth.users.items()}
        permissions = {
            name: {
                vhost: (three[0], three[1], three[2]) for vhost, three in user.permissions.items()
            }
            for name, user in self.auth.users.items()
        }
        administrators = {name for name, user in self.auth.users.items() if user.administrator}
        if self.auth.guest and "guest" not in passwords:
            passwords["guest"] = "plain:guest"
            permissions["guest"] = dict.fromkeys(self.broker.vhosts, (".*", ".*", ".*"))
            administrators.add("guest")
        subjects = {parse(subject): name for subject, name in self.auth.dn_map.items()}
        accounts = Accounts(passwords, permissions, verify, frozenset(administrators), subjects)
        for name, user in self.auth.users.items():
            if user.link:
                accounts.users[name].tags += ("link",)
        return accounts


def load(
    file: Path | None = None,
    data: Path | None = None,
    port_offset: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read the configuration; raises ConfigError.

    `file` None: `gridmsg.toml` of the data folder if there is one, else defaults alone.  `data` goes before the file's
    `broker.data`.
    """
    environment = os.environ if environment is None else environment
    if not 0 <= port_offset <= PORT_OFFSET_MAX:
        raise ConfigError(
            f"--port-offset {port_offset}: a whole number from 0 to {PORT_OFFSET_MAX} expected"
        )
    if file is None:
        beside = (data or Path(DEFAULT_DATA)) / FILE_NAME
        file = beside if beside.is_file() else None
    file_time_ns = _time_ns(file)
    document = Document.load(file, environment)
    broker = document.section("broker", BrokerSection)
    auth = document.section("auth", AuthSection)
    store = document.section("store", StoreSection)
    failover = document.section("failover", FailoverSection)
    tls = document.section("tls", TlsSection)
    listeners = _listeners(document, port_offset, tls, file.parent if file else Path())
    addresses = _addresses(document)
    routes = _routes(document, addresses)
    links = _links(document, file.parent if file else Path())
    for name, why in LATER_SECTIONS.items():
        document.refuse(name, why)
    document.refuse_rest(AGENT_SECTIONS)
    _check_auth(document, auth)
    if data is None:
        data = Path(DEFAULT_DATA)
        if broker.data is not None:
            data = (file.parent if file is not None else Path()) / broker.data
    return Config(
        document=document,
        file=file,
        data_folder=data,
        port_offset=port_offset,
        broker=broker,
        auth=auth,
        store=store,
        failover=failover,
        listeners=listeners,
        addresses=addresses,
        routes=routes,
        links=links,
        file_time_ns=file_time_ns,
    )


def _time_ns(file: Path | None) -> int:
    """When a file was written; 0: it is not there."""
    try:
        return 0 if file is None else file.stat().st_mtime_ns
    except OSError:
        return 0


def split_address(text: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT" or "[IPV6]:PORT"; raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(text)
    if host.startswith("["):
        if not host.endswith("]"):
            raise ValueError(text)
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(text)
    return host, int(port)


def _listeners(
    document: Document, port_offset: int, tls: TlsSection, folder: Path
) -> tuple[Listener, ...]:
    rows = document.rows("listener", ListenerSection)
    if not rows:
        rows = [
            ListenerSection(protocol="amqp"),
            ListenerSection(protocol="stomp"),
            ListenerSection(protocol="websocket"),
            ListenerSection(protocol="management"),
        ]
    listeners = []
    for index, row in enumerate(rows):
        try:
            host, port = (
                split_address(row.address)
                if row.address
                else (
                    "127.0.0.1",
                    (TLS_PORTS if row.tls else DEFAULT_PORTS)[row.protocol] + port_offset,
                )
            )
        except ValueError:
            raise document.error(
                ("listener", index, "address"),
                f'"{row.address}" is not allowed: HOST:PORT expected, such as "127.0.0.1:5672" or "[::1]:5672"',
            ) from None
        files = _tls_files(document, index, row, tls, folder)
        for key, protocols in (("profile", ("stomp", "websocket")), ("origins", ("websocket",))):
            if row.protocol not in protocols and getattr(row, key) not in ("strict", []):
                raise document.error(
                    ("listener", index, key), f"only for protocol {' and '.join(protocols)}"
                )
        listeners.append(
            Listener(
                row.protocol,
                host,
                port,
                row.max_connections,
                row.limits,
                files,
                row.profile,
                tuple(row.origins),
            )
        )
    seen: dict[tuple[str, int], int] = {}
    for index, one in enumerate(listeners):
        if one.port and (one.host, one.port) in seen:
            raise document.error(
                ("listener", index, "address"),
                f"{one.host}:{one.port} is taken by listener[{seen[one.host, one.port]}]; give each its own port",
            )
        seen[one.host, one.port] = index
    return tuple(listeners)


def _tls_files(
    document: Document, index: int, row: ListenerSection, tls: TlsSection, folder: Path
) -> TlsFiles | None:
    if not row.tls:
        if row.verify is not None:
            raise document.error(
                ("listener", index, "verify"), "there is no TLS on this listener: say tls = true"
            )
        return None
    if tls.certificate is None or tls.key is None:
        raise document.error(
            ("listener", index, "tls"),
            "[tls] certificate and key are needed: make them with `gridmsg certs init` and `gridmsg certs host NAME`",
        )
    verify = row.verify or tls.verify
    if tls.ca is None and verify == "required":
        raise document.error(
            ("listener", index, "verify"), "[tls] ca is needed to verify client certificates"
        )
    from broker.net.tls_files import TlsFiles

    return TlsFiles(
        folder / tls.certificate,
        folder / tls.key,
        None if tls.ca is None else folder / tls.ca,
        "none" if tls.ca is None else verify,
        tls.min_version,
    )


def _addresses(document: Document) -> tuple[Address, ...]:
    rows = document.rows("address", AddressSection)
    for index, row in enumerate(rows):
        if not row.pattern.startswith("/"):
            raise document.error(
                ("address", index, "pattern"),
                f'"{row.pattern}" is not allowed: a pattern with a leading slash expected',
            )
    own = tuple(
        Address(row.pattern, row.kind, row.unroutable, row.exchange_kind, row.durable)
        for row in rows
    )
    return (*own, *DEFAULT_ADDRESSES)


def _routes(document: Document, addresses: tuple[Address, ...]) -> tuple[Route, ...]:
    """The rows, and what the accounting agents need: each database's queues, bound to the collector's exchange."""
    routes = [
        Route(row.exchange, row.queue, row.key) for row in document.rows("route", RouteSection)
    ]
    tables = document.tables("collector", "database", "replay")
    databases: Any = tables.get("database", [{}])
    exchange = _name(tables.get("collector", {}), "destination", "gracc.site.raw")
    replay = _name(tables.get("replay", {}), "name", "site")
    for row in databases if isinstance(databases, list) else ():
        name = _name(row, "name", "site")
        routes.append(Route(exchange, _name(row, "raw", "") or f"grace.{name}.raw", ""))
        routes.append(Route("", _name(row, "summary", "") or f"grace.{name}.summary", ""))
    requests = _name(tables.get("replay", {}), "requests", "") or f"grace.{replay}.requests"
    routes.append(Route("", requests, ""))
    return tuple(dict.fromkeys(routes))


def _links(document: Document, folder: Path) -> tuple[LinkSettings, ...]:
    links: dict[str, LinkSettings] = {}
    for index, row in enumerate(document.rows("link", LinkSection)):

        def fail(key: str, text: str, index: int = index) -> ConfigError:
            return document.error(("link", index, key.replace("_", "-")), text)

        made = link_settings(row, fail, split_address, folder)
        if made.name in links:
            raise fail("name", f'"{made.name}" is the name of another link, too')
        links[made.name] = made
    return tuple(links.values())


def _name(table: Any, key: str, default: str) -> str:
    """A name from an agent's section, unchecked: the agent checks it."""
    found = table.get(key, default) if isinstance(table, dict) else default
    return found.removeprefix("/") if isinstance(found, str) else default


def _check_auth(document: Document, auth: AuthSection) -> None:
    from broker.session.auth import compile_pattern
    from broker.session.passwords import objection

    for name, user in auth.users.items():
        for vhost, three in user.permissions.items():
            key = ("auth", "users", name, "permissions", vhost)
            if len(three) != 3:
                raise document.error(key, "three patterns expected: [configure, write, read]")
            try:
                for pattern in three:
                    compile_pattern(pattern)
            except ValueError as error:
                raise document.error(key, str(error)) from None
        why = objection(user.password) if user.password else None
        if why is not None:
            raise document.error(
                ("auth", "users", name, "password"),
                f"this value is not allowed: {why}, made with `gridmsg user hash`",
            )
    _check_subjects(document, auth)


def _check_subjects(document: Document, auth: AuthSection) -> None:
    from broker.session.dn import parse

    seen: dict[object, str] = {}
    for subject in auth.dn_map:
        try:
            parsed = parse(subject)
        except ValueError as error:
            raise document.error(
                ("auth", "dn-map", subject),
                f'{error}: "/DC=ch/CN=me" or "CN=me,DC=ch" expected',
            ) from None
        if parsed in seen:
            raise document.error(
                ("auth", "dn-map", subject), f'the same subject as "{seen[parsed]}"'
            )
        seen[parsed] = subject


SECTIONS: dict[str, type[Section]] = {
    "broker": BrokerSection,
    "store": StoreSection,
    "failover": FailoverSection,
    "listener": ListenerSection,
    "tls": TlsSection,
    "auth": AuthSection,
    "address": AddressSection,
    "route": RouteSection,
    "link": LinkSection,
}
"""The broker's sections by name, for documentation and its test."""
