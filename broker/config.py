"""The broker's frozen settings: what its sections (`broker/sections.py`) mean, read from file and environment.

Rooms below never see this module: the server hands each its own limits as arguments.  Sections of the agents
are not read here; their names are known, so that a typing error in a section name is still refused.
Sections that a later version will have are refused with words.  Tests: tests/unit/broker/test_config.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final

from broker.core.broker import CoreLimits
from broker.core.destination import DEFAULT_ADDRESSES, Address
from broker.errors import ConfigError
from broker.link.settings import LinkSettings
from broker.link_config import LinkSection, link_settings
from broker.sections import (
    AddressSection,
    AuthSection,
    BrokerSection,
    FailoverSection,
    LimitsSection,
    ListenerSection,
    RouteSection,
    StoreSection,
    TlsSection,
)
from broker.settings import Document

if TYPE_CHECKING:
    from broker.net.tls_files import TlsFiles
    from broker.session.amqp_connection import AmqpLimits
    from broker.session.auth import Accounts
    from broker.session.stomp_connect import StompLimits
    from store.settings import StoreSettings

CALM_SECONDS: Final = 2.0
"""After a start, how long a checkpoint waits for the first clients to be served."""

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
            calm_seconds=CALM_SECONDS,
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
