"""`[[link]]`: what a link is told in the configuration, and by `gridmsg link add`.

Tests: tests/unit/broker/test_link_config.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from broker.errors import ConfigError, PreconditionFailed
from broker.link.settings import LinkSettings, LinkTls, Stream
from broker.setting_types import Duration, Secret, Section, Size
from broker.settings import Document

PORTS = {"gridmsg": 5672, "amqp": 5672, "stomp": 61613}
TLS_PORTS = {"gridmsg": 5671, "amqp": 5671, "stomp": 61614}


class LinkSection(Section, frozen=True, kw_only=True):
    """`[[link]]`: a link to another broker, configured on one side; the other needs a user with the right to it."""

    name: Annotated[
        str,
        Meta(
            description="Its name; the far side knows the link by it, too.",
            min_length=1,
            max_length=100,
            pattern="^[A-Za-z0-9_.-]+$",
        ),
    ]
    address: Annotated[
        list[str],
        Meta(
            description="HOST:PORT of the far broker, and of its standbys, tried in order.",
            min_length=1,
            max_length=20,
        ),
    ]
    protocol: Annotated[
        Literal["gridmsg", "amqp", "stomp"],
        Meta(
            description="gridmsg: exactly once, to one of ours, by its AMQP listener; amqp: RabbitMQ, LavinMQ; "
            "stomp: ActiveMQ, Artemis."
        ),
    ] = "gridmsg"
    user: Annotated[str, Meta(description="User there; empty: by certificate.")] = "guest"
    password: Annotated[Secret, Meta(description="Its password.")] = "guest"  # noqa: S105 - the built-in account
    vhost: Annotated[str, Meta(description="Virtual host here.", min_length=1)] = "/"
    far_vhost: Annotated[str, Meta(description="Virtual host there.", min_length=1)] = "/"
    pull_exchanges: Annotated[
        list[str],
        Meta(
            description='Exchanges whose messages come here as far as something is bound here; "THERE => HERE" where the names differ.'
        ),
    ] = field(default_factory=list)
    push_exchanges: Annotated[
        list[str],
        Meta(
            description='Exchanges whose messages go there as far as something is bound there; "HERE => THERE".'
        ),
    ] = field(default_factory=list)
    pull_queues: Annotated[
        list[str], Meta(description='Queues whose messages are moved here; "THERE => HERE".')
    ] = field(default_factory=list)
    push_queues: Annotated[
        list[str], Meta(description='Queues whose messages are moved there; "HERE => THERE".')
    ] = field(default_factory=list)
    on_demand: Annotated[
        bool,
        Meta(
            description="Move messages of queues only while the receiving side has consumers with room."
        ),
    ] = False
    window: Annotated[
        Size, Meta(description="Unconfirmed bytes under way, in each stream.", ge=65536, le=1 << 30)
    ] = 64 << 20
    connections: Annotated[
        int,
        Meta(
            description="TCP connections that act as one; 0: 1 to 4, as the round trip and the kernel's buffers need.",
            ge=0,
            le=16,
        ),
    ] = 0
    hops: Annotated[
        int, Meta(description="Brokers that a message may go through by links.", ge=1, le=255)
    ] = 16
    buffer_size: Annotated[
        Size,
        Meta(
            description="What is kept for the far side of each exchange; publishers are refused beyond. 0: no bound."
        ),
    ] = 8 << 30
    compression: Annotated[
        Literal["none", "auto", "always"],
        Meta(
            description="Compress batches, by zstd where both ends have the package zstandard, else by zlib; auto: while the "
            "line is the limit and it helps."
        ),
    ] = "none"
    rate: Annotated[Size, Meta(description="Bytes a second sent, at most; 0: no bound.")] = 0
    heart_beat: Annotated[
        Duration,
        Meta(
            description="Between signs of life; after 2.5 times as long in silence the link is dialed anew.",
            ge=0.2,
            le=600,
        ),
    ] = 5.0
    retry: Annotated[Duration, Meta(description="Least wait before dialing again.", ge=0.05)] = 1.0
    retry_max: Annotated[
        Duration, Meta(description="Longest wait before dialing again.", ge=0.05)
    ] = 60.0
    tls: Annotated[bool, Meta(description="Speak TLS and verify the far side's host name.")] = False
    ca: Annotated[
        Path | None, Meta(description="Authorities of the far side; else the system's.")
    ] = None
    certificate: Annotated[Path | None, Meta(description="Own certificate to show, in PEM.")] = None
    key: Annotated[Path | None, Meta(description="Its private key.")] = None
    server_name: Annotated[
        str, Meta(description="Name in the far side's certificate, where not that of the address.")
    ] = ""


def link_settings(
    row: LinkSection,
    fail: Callable[[str, str], ConfigError],
    split: Callable[[str], tuple[str, int]],
    folder: Path,
    origin: Literal["configuration", "store"] = "configuration",
) -> LinkSettings:
    """Check a row; raises what `fail` makes of a key and a text."""
    ports = TLS_PORTS if row.tls else PORTS
    addresses = []
    for text in row.address:
        try:
            addresses.append(split(text if ":" in text else f"{text}:{ports[row.protocol]}"))
        except ValueError:
            raise fail("address", f'"{text}" is not allowed: HOST:PORT expected') from None
    streams = [
        *_streams(row, "exchange", False, row.pull_exchanges, fail),
        *_streams(row, "exchange", True, row.push_exchanges, fail),
        *_streams(row, "queue", False, row.pull_queues, fail),
        *_streams(row, "queue", True, row.push_queues, fail),
    ]
    if not streams:
        raise fail(
            "name",
            "nothing to carry: name pull-exchanges, push-exchanges, pull-queues or push-queues",
        )
    if len({(one.kind, one.is_push, one.source, one.target) for one in streams}) != len(streams):
        raise fail("name", "the same stream twice")
    if (row.certificate is None) != (row.key is None):
        raise fail("certificate", "certificate and key belong together")
    tls = None
    if row.tls:
        tls = LinkTls(
            str(folder / row.ca) if row.ca else "",
            str(folder / row.certificate) if row.certificate else "",
            str(folder / row.key) if row.key else "",
            row.server_name,
        )
    elif row.ca is not None or row.certificate is not None:
        raise fail("tls", "there is no TLS on this link: say tls = true")
    return LinkSettings(
        name=row.name,
        addresses=tuple(addresses),
        streams=tuple(streams),
        protocol=row.protocol,
        user=row.user,
        password=row.password,
        tls=tls,
        window_bytes=row.window,
        hops_max=row.hops,
        buffer_bytes=row.buffer_size,
        connections=row.connections,
        compression=row.compression,
        rate_bytes=row.rate,
        heartbeat_seconds=row.heart_beat,
        is_on_demand=row.on_demand,
        retry_seconds=row.retry,
        retry_seconds_max=max(row.retry, row.retry_max),
        origin=origin,
    )


def row_settings(row: dict[str, Any], split: Callable[[str], tuple[str, int]]) -> LinkSettings:
    """The settings of a link that was added by command; raises PreconditionFailed."""
    lines = ["[[link]]"]
    for key, value in row.items():
        if not key.replace("-", "").isalnum():
            raise PreconditionFailed(f"link: {key[:100]!r} is no key")
        if value is not None:
            lines.append(f"{key} = {json.dumps(value)}")
    try:
        document = Document("\n".join(lines), "link")
        (section,) = document.rows("link", LinkSection)
        return link_settings(
            section,
            lambda key, text: ConfigError(f"link: {key.replace('_', '-')}: {text}"),
            split,
            Path(),
            "store",
        )
    except ConfigError as error:
        raise PreconditionFailed(str(error)) from None


def shown_row(settings: LinkSettings) -> dict[str, Any]:
    """A link's configuration as the API shows it: without its password."""
    found: dict[str, Any] = {
        "name": settings.name,
        "address": [f"{host}:{port}" for host, port in settings.addresses],
        "protocol": settings.protocol,
        "user": settings.user,
        "window": settings.window_bytes,
        "connections": settings.connections,
        "hops": settings.hops_max,
        "buffer-size": settings.buffer_bytes,
        "compression": settings.compression,
        "rate": settings.rate_bytes,
        "heart-beat": settings.heartbeat_seconds,
        "on-demand": settings.is_on_demand,
        "retry": settings.retry_seconds,
        "retry-max": settings.retry_seconds_max,
        "tls": settings.tls is not None,
    }
    if settings.streams:
        found["vhost"] = settings.streams[0].vhost
        found["far-vhost"] = settings.streams[0].far_vhost
    if settings.tls is not None:
        found |= {
            "ca": settings.tls.ca or None,
            "certificate": settings.tls.certificate or None,
            "key": settings.tls.key or None,
            "server-name": settings.tls.server_name,
        }
    for stream in settings.streams:
        key = f"{'push' if stream.is_push else 'pull'}-{stream.kind}s"
        name = stream.source
        if stream.target != stream.source:
            name = f"{stream.source} => {stream.target}"
        found.setdefault(key, []).append(name)
    return found


def _streams(
    row: LinkSection,
    kind: Literal["exchange", "queue"],
    is_push: bool,
    texts: list[str],
    fail: Callable[[str, str], ConfigError],
) -> list[Stream]:
    key = f"{'push' if is_push else 'pull'}_{kind}s"
    streams = []
    for text in texts:
        source, arrow, target = (part.strip() for part in text.partition("=>"))
        if not source or (arrow and not target) or len(text) > 500:
            raise fail(key, f'"{text}": a name, or "SOURCE => TARGET" expected')
        streams.append(Stream(kind, is_push, source, target or source, row.vhost, row.far_vhost))
    return streams
