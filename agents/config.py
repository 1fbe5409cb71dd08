"""Settings of the agents: the tables `[collector]`, `[[database]]`, `[summary]`, `[replay]` of the one TOML file.

Invariants: every key has a default, so an empty file is valid; unknown keys and wrong types are refused with the
path of the key; keys are kebab-case, sizes and times end in their unit.  Other tables of the file belong to the
broker and are not looked at.  Relative folders are taken from the data folder.
Tests: tests/unit/agents/test_config.py.
"""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from agents.errors import SettingsError

STOMP_PORT: Final = 61613
COLLECTOR_PORT: Final = 8880

AGENT_TABLES: Final = frozenset({"collector", "database", "summary", "replay"})

Positive = Annotated[int, Meta(gt=0)]
Seconds = Annotated[float, Meta(gt=0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]

# Our bare names and what each kind of broker calls them; the first pattern that matches wins.  RabbitMQ's STOMP
# plugin refuses names without a known prefix, and cannot declare a fanout exchange: its definitions file does.
DESTINATION_PROFILES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "gridmsg": (),
    "rabbitmq": (
        ("/gracc.*.raw", "/exchange/{name}"),
        ("/gracc.*.summary", "/exchange/{name}"),
        ("/grace.*", "/amq/queue/{name}"),
    ),
}


class _Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"
):
    """What every table has in common: kebab-case keys, nothing unknown."""


class TlsSettings(_Settings, frozen=True):
    """How to speak TLS to the broker; files are PEM."""

    ca: str = ""
    """File with the certificates of the authorities to trust; empty: those of the system."""
    certificate: str = ""
    """Client certificate (chain), for a login by certificate."""
    key: str = ""
    """Its private key, not encrypted."""
    verify: bool = True
    """Whether the broker's certificate is checked; false is for tests only."""


class BrokerSettings(_Settings, frozen=True):
    """Where an agent's broker is and how to log in: the table `broker` inside each agent's own."""

    addresses: Annotated[tuple[str, ...], Meta(min_length=1)] = (f"127.0.0.1:{STOMP_PORT}",)
    """`host:port` (IPv6 as `[::1]:61613`), tried in turn."""
    login: str = "guest"
    """Empty: no login is sent (authentication by client certificate)."""
    passcode: str = "guest"
    """Password of the login."""
    vhost: str = "/"
    """Virtual host on the broker."""
    tls: TlsSettings | None = None
    """Table with these keys; without it the connection is in clear."""
    profile: Literal["gridmsg", "rabbitmq"] = "gridmsg"
    """Which names the broker understands; `destinations` goes before it."""
    destinations: dict[str, str] = {}
    """Our name or pattern → what is said on the wire; `{name}` stands for ours without its leading slash."""
    heart_beat_ms: Annotated[int, Meta(ge=0)] = 10_000
    """Heart-beat asked for in both directions, in milliseconds; 0: none."""
    connect_timeout_seconds: Seconds = 10.0
    """How long one address may take from connecting to login."""
    reconnect_min_seconds: Seconds = 1.0
    """First pause after a lost or failed connection; it grows with chance up to the next key."""
    reconnect_max_seconds: Seconds = 60.0
    """Longest pause between two tries."""

    def wire_destination(self, name: str) -> str:
        """Return what is said on the wire for one of our names; a name no pattern matches stays as it is."""
        for pattern, wire in (*self.destinations.items(), *DESTINATION_PROFILES[self.profile]):
            if fnmatch.fnmatchcase(name, pattern):
                return wire.replace("{name}", name.removeprefix("/"))
        return name


class ListenerTlsSettings(_Settings, frozen=True):
    """TLS of the collector's own listener, in the words of the broker's `[tls]`; files are PEM, from the data folder on."""

    certificate: str = ""
    """Certificate with its chain; empty: no TLS."""
    key: str = ""
    """Its private key."""
    ca: str = ""
    """Authorities whose client certificates are taken."""
    verify: Literal["none", "optional", "required"] = "optional"
    """Client certificates: not asked for, looked at if shown, or refused without; nothing is asked for without `ca`."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""


class CollectorSettings(_Settings, frozen=True):
    """The HTTP server that takes records from probes: `[collector]`."""

    broker: BrokerSettings = BrokerSettings()
    name: Name = "collector"
    """Name in logs and of its connections."""
    address: str = f"127.0.0.1:{COLLECTOR_PORT}"
    """`host:port` to listen on; port 0 takes a free one."""
    tls: ListenerTlsSettings = ListenerTlsSettings()
    destination: str = "/gracc.site.raw"
    """Exchange that gets the records."""
    post_bytes_max: Annotated[int, Meta(ge=10 * 1024 * 1024)] = 10 * 1024 * 1024
    """A larger POST gets the "Post too large" text at which probes shrink their bundles."""
    posts_max: Positive = 64
    """POSTs worked on at once; more wait for nothing and are told to come again."""
    connections_max: Positive = 512
    """Connections at one time; more are closed at once."""
    idle_timeout_seconds: Seconds = 900.0
    """A connection without a byte for so long is closed."""
    confirm_timeout_seconds: Seconds = 20.0
    """How long a POST waits for the broker before its records go to the spool."""
    spool_bytes_max: Positive = 4 * 1024**3
    """Bytes on disk while the broker is away; beyond, senders keep their records."""
    spool_files_max: Positive = 100_000
    """The same as a number of files (one file is what came in together)."""
    quarantine_files_max: Positive = 100_000
    """Bad records kept; beyond, bundles with a bad record are refused until somebody has looked."""
    record_bytes_max: Positive = 4 * 1024 * 1024
    """A larger record goes to quarantine."""
    probes_max: Positive = 10_000
    """Probes remembered with what they last said; the longest silent is forgotten first."""
    stop_timeout_seconds: Seconds = 2.0
    """How long stopping may take; what is not confirmed by then goes to the spool."""


class ElasticSettings(_Settings, frozen=True):
    """An Elasticsearch or OpenSearch cluster as record store."""

    addresses: Annotated[tuple[str, ...], Meta(min_length=1)] = ("http://127.0.0.1:9200",)
    """URLs, tried in turn."""
    login: str = ""
    """User name; empty: none is sent."""
    password: str = ""
    """Password of the login."""
    api_key: str = ""
    """API key, in the place of login and password."""
    ca: str = ""
    """File with the certificates of the authorities to trust; empty: those of the system."""
    stream: Name = "site"
    """The STREAM in the names of the indices."""
    request_timeout_seconds: Seconds = 30.0
    """How long one request may take."""


class DatabaseSettings(_Settings, frozen=True):
    """One agent from queues to a record store: an entry of `[[database]]`."""

    broker: BrokerSettings = BrokerSettings()
    name: Name = "site"
    """The DB in the names of queues, files and folders; each entry has its own."""
    raw: str = ""
    """Queue of raw records; empty: `/grace.NAME.raw`."""
    summary: str = ""
    """Queue of summary rows; empty: `/grace.NAME.summary`."""
    store: Literal["sqlite", "elasticsearch"] = "sqlite"
    """Kind of record store; this version has sqlite only."""
    path: str = ""
    """SQLite file; empty: `records.sqlite` for the database named `site`, else `NAME.sqlite`."""
    elasticsearch: ElasticSettings = ElasticSettings()
    """For store = elasticsearch."""
    prefetch: Annotated[int, Meta(gt=0, le=65_535)] = 4_000
    """Messages of a queue that the broker hands out before they are acknowledged."""
    batch_records: Positive = 1_000
    """Most messages in one transaction."""
    batch_bytes: Positive = 5 * 1024 * 1024
    """Most bytes of messages in one transaction."""
    batch_wait_seconds: Seconds = 0.2
    """How long the first message of a batch waits for others."""
    retry_max_seconds: Seconds = 60.0
    """Longest pause between tries while the store fails."""
    stop_timeout_seconds: Seconds = 2.0
    """How long stopping may take; what is not stored by then comes again."""

    @property
    def raw_queue(self) -> str:
        """Return the queue of raw records."""
        return self.raw or f"/grace.{self.name}.raw"

    @property
    def summary_queue(self) -> str:
        """Return the queue of summary rows."""
        return self.summary or f"/grace.{self.name}.summary"

    def store_path(self, data_folder: Path) -> Path:
        """Return the SQLite file, under `data_folder` unless configured as an absolute path."""
        default = "records.sqlite" if self.name == "site" else f"{self.name}.sqlite"
        return data_folder / (self.path or default)


class CorrectionSettings(_Settings, frozen=True):
    """One correction of summary rows (gracc.md 3): a match on fields, and the field it writes."""

    match_fields: tuple[str, ...]
    """Fields of the row that an entry of the table must equal."""
    source_field: str
    """Field of the table's entry that holds the new value."""
    dest_field: str
    """Field of the row that gets it; the old value stays under `Raw` + its name."""
    regex: bool = False
    """Whether the entries' match fields are patterns, searched in the row's."""
    table: str = ""
    """JSON file: list of objects with the match fields and the source field."""


class SummarySettings(_Settings, frozen=True):
    """The agent that computes daily summaries: `[summary]`."""

    broker: BrokerSettings = BrokerSettings()
    name: Name = "site"
    """The DB in the default name of the queue for copies."""
    destinations: tuple[str, ...] = ()
    """Queues or exchanges that get copies of the rows; empty: `/grace.NAME.summary`; `none` alone: no copies."""
    path: str = "records.sqlite"
    """Record store that is read."""
    summary_path: str = "summary.sqlite"
    """Record store that is written."""
    interval_seconds: Seconds = 900.0
    """Longest time between two looks for changes (never more than 15 s), and between sweeps of `recent-days`."""
    recent_days: Positive = 7
    """Days computed again at each sweep, in a store that does not number its changes."""
    nightly_days: Positive = 365
    """The same, once a night."""
    nightly_hour_utc: Annotated[int, Meta(ge=0, le=23)] = 2
    """Hour of the day, UTC, from which the night's sweep is due."""
    batch_rows: Positive = 500
    """Rows sent before their confirms are waited for."""
    confirm_timeout_seconds: Seconds = 60.0
    """How long these confirms may take."""
    corrections: tuple[CorrectionSettings, ...] = ()
    """Rows of `[[summary.corrections]]`: tables that rename VOs and projects, see summary.md."""
    stop_timeout_seconds: Seconds = 2.0
    """How long stopping may take; a day in hand is computed at the next start."""


class ReplaySettings(_Settings, frozen=True):
    """The agent that answers requests for records: `[replay]`."""

    broker: BrokerSettings = BrokerSettings()
    name: Name = "site"
    """The DB in the default name of the queue of requests."""
    requests: str = ""
    """Queue of requests; empty: `/grace.NAME.requests`."""
    path: str = "records.sqlite"
    """Record store of raw records."""
    summary_path: str = "summary.sqlite"
    """Record store of summary rows."""
    allow_destinations: tuple[str, ...] = ("*",)
    """Patterns of the destinations that a request may name."""
    requests_max: Positive = 4
    """Requests worked on at once."""
    batch_records: Positive = 500
    """Records sent before their confirms are waited for."""
    progress_seconds: Seconds = 2.0
    """Shortest time between two control messages about progress."""
    confirm_timeout_seconds: Seconds = 60.0
    """How long the confirms of a batch may take."""
    retry_max_seconds: Seconds = 60.0
    """Longest pause between tries while broker or store is away."""
    stop_timeout_seconds: Seconds = 2.0
    """How long stopping may take; a request in hand goes on at the next start."""

    @property
    def requests_queue(self) -> str:
        """Return the queue of requests."""
        return self.requests or f"/grace.{self.name}.requests"


class AgentSettings(_Settings, frozen=True):
    """The agents' tables of the file."""

    collector: CollectorSettings = CollectorSettings()
    database: tuple[DatabaseSettings, ...] = (DatabaseSettings(),)
    summary: SummarySettings = SummarySettings()
    replay: ReplaySettings = ReplaySettings()


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`; raise SettingsError otherwise."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise SettingsError(f"{text!r} is not host:port (IPv6 as [::1]:61613)")
    return host.removeprefix("[").removesuffix("]"), int(port)


def read_settings(path: Path | None, port_offset: int = 0) -> AgentSettings:
    """Read the agents' tables of a TOML file (None: all defaults), default ports shifted by `port_offset`.

    Raises SettingsError that names file and key.
    """
    tables: dict[str, object] = {}
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
    return settings_from(tables, port_offset, str(path) if path else "defaults")


def settings_from(
    tables: dict[str, object], port_offset: int = 0, origin: str = "configuration"
) -> AgentSettings:
    """Return the agents' settings from parsed TOML tables; raise SettingsError that names `origin` and key."""
    mine = {key: table for key, table in tables.items() if key in AGENT_TABLES}
    try:
        settings = msgspec.convert(_shifted(mine, port_offset), AgentSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{origin}: {error}") from error
    for broker in (
        settings.collector.broker,
        settings.summary.broker,
        settings.replay.broker,
        *(database.broker for database in settings.database),
    ):
        for address in broker.addresses:
            split_address(address)
    split_address(settings.collector.address)
    names = [database.name for database in settings.database]
    if len(set(names)) < len(names):
        raise SettingsError(
            f"{origin}: database.name: two entries are called {max(names, key=names.count)!r};"
            " each needs its own name, as its files and queues are named by it"
        )
    tls = settings.collector.tls
    if bool(tls.certificate) != bool(tls.key):
        raise SettingsError(f"{origin}: collector.tls: certificate and key are needed together")
    if tls.verify == "required" and not (tls.certificate and tls.ca):
        raise SettingsError(
            f"{origin}: collector.tls.verify: certificate, key and ca are needed to require client certificates"
        )
    return settings


def _shifted(tables: dict[str, object], port_offset: int) -> dict[str, object]:
    """Return the tables with defaults of shifted ports filled in where the file is silent."""
    if port_offset == 0:
        return tables
    addresses = [f"127.0.0.1:{STOMP_PORT + port_offset}"]

    def with_broker(table: object) -> object:
        if not isinstance(table, dict):
            return table
        broker = table.get("broker", {})
        if isinstance(broker, dict):
            broker = {"addresses": addresses, **broker}
        return {**table, "broker": broker}

    collector = with_broker(tables.get("collector", {}))
    if isinstance(collector, dict):
        collector = {"address": f"127.0.0.1:{COLLECTOR_PORT + port_offset}", **collector}
    databases = tables.get("database", [{}])
    if isinstance(databases, list):
        databases = [with_broker(entry) for entry in databases]
    return {
        "collector": collector,
        "database": databases,
        "summary": with_broker(tables.get("summary", {})),
        "replay": with_broker(tables.get("replay", {})),
    }
