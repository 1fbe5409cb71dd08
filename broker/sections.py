"""What may be said in `[broker]`, `[store]`, `[[listener]]`, …: each key with its type, bounds, default and help.

What it means is `broker/config.py`'s; `[[link]]` is in `broker/link_config.py`.  `docs/configuration.md` is made of this.
Tests: tests/unit/broker/test_config.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from broker.link_config import LinkSection
from broker.setting_types import Count, Duration, Secret, Section, Size

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
            "listeners; from this machine ten times as many."
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
