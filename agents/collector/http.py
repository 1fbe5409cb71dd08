"""The HTTP side of the collector, on Twisted: requests in, bare answers out (gracc.md 2).

Invariants: the reactor never waits for the broker, a disk or a parser; memory is bounded by the size of a POST, the
number of connections and a budget over all bodies; a body that is too large is read and thrown away, because probes
understand only an answer, not a closed connection; a probe looks at the text, never at the status.
Tests: tests/interop/test_collector.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from io import BytesIO
from typing import Final, final

import msgspec
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web.http import HTTPFactory, Request, _GenericHTTPChannelProtocol

from agents.collector.intake import TOO_LARGE, Intake, take_form, take_json
from agents.collector.probes import ProbeBook
from agents.collector.quarantine import Quarantine
from agents.collector.sender import Sender
from agents.config import CollectorSettings
from agents.errors import BadRequest, SpoolFull
from agents.outbox import Outbox

log = logging.getLogger(__name__)

RMI_SUFFIX: Final = b"/gratia-servlets/rmi"
RECORDS_SUFFIX: Final = b"/records"
BODIES_BYTES_MAX: Final = 256 * 1024 * 1024
"""What all bodies in memory may take together."""
UNAVAILABLE: Final = "Service unavailable right now"
TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"

Reply = tuple[int, str, str]
"""Status, content type, body."""


class Counters(msgspec.Struct, rename="kebab"):
    """What the collector has done since it started."""

    requests: int = 0
    request_errors: int = 0
    records: int = 0
    record_errors: int = 0
    unknown_elements: int = 0


@final
class Gate:
    """What all requests share: settings, counters, the way to worker threads and to the sender."""

    def __init__(
        self,
        settings: CollectorSettings,
        sender: Sender,
        outbox: Outbox,
        quarantine: Quarantine,
        probes: ProbeBook,
        in_worker: Callable[[Callable[[], None]], None],
        in_reactor: Callable[[Callable[[], None]], None],
    ) -> None:
        self.settings = settings
        self.probes = probes
        self.counters = Counters()
        self.is_stopping = False
        self.busy_count = 0
        self.body_bytes = 0
        self._sender = sender
        self._outbox = outbox
        self._quarantine = quarantine
        self._in_worker = in_worker
        self._in_reactor = in_reactor

    def take(self, take: Callable[[], Intake], reply: Callable[[Reply], None]) -> None:
        """Take a request apart in a worker; `reply` is called in the reactor's thread, exactly once."""
        self.busy_count += 1

        def finish(answer: Reply, intake: Intake | None) -> None:
            self.busy_count -= 1
            self._count(answer, intake)
            reply(answer)

        def answered(intake: Intake, problem: str | None) -> None:
            answer = accepted(intake) if problem is None else unavailable(problem)
            self._in_reactor(lambda: finish(answer, intake))

        def work() -> None:
            try:
                intake = take()
                self._quarantine.keep(intake.rejected, intake.sender, intake.how)
            except BadRequest as error:
                refusal: Reply = (400, TEXT, error.text)
                self._in_reactor(lambda: finish(refusal, None))
            except SpoolFull as error:
                full = unavailable(error.text)
                self._in_reactor(lambda: finish(full, None))
            except Exception:
                log.exception("a request failed")
                self._in_reactor(lambda: finish((500, TEXT, "Internal server error"), None))
            else:
                if intake.bodies:
                    self._sender.submit(intake.bodies, lambda problem: answered(intake, problem))
                else:
                    answered(intake, None)

        self._in_worker(work)

    def status(self) -> dict[str, object]:
        """Return the counters and gauges by name."""
        return {
            **msgspec.to_builtins(self.counters),
            "published": self._sender.published_count,
            "spooled": self._sender.spooled_count,
            "drained": self._sender.drained_count,
            "spool-files": self._outbox.file_count,
            "spool-bytes": self._outbox.byte_count,
            "quarantine-files": self._quarantine.file_count,
            "probes": len(self.probes.probes),
            "busy": self.busy_count,
        }

    def _count(self, answer: Reply, intake: Intake | None) -> None:
        self.counters.requests += 1
        if answer[0] != 200 or intake is None:
            self.counters.request_errors += 1
            return
        self.counters.records += len(intake.bodies)
        self.counters.record_errors += len(intake.rejected)
        self.counters.unknown_elements += intake.unknown_count
        if intake.rejected:
            log.warning(
                "%d of %d records from %s went to quarantine, the first because: %s",
                len(intake.rejected),
                len(intake.rejected) + len(intake.bodies),
                intake.sender or "an unnamed sender",
                intake.rejected[0].reason,
            )
        self.probes.note(intake, time.time())


def accepted(intake: Intake) -> Reply:
    """Return the answer to a request that was taken: the bare `OK`, or for JSON with bad records what was wrong."""
    if intake.how == "records" and intake.rejected:
        content = {
            "accepted": len(intake.bodies),
            "quarantined": [record.reason for record in intake.rejected[:100]],
            "quarantined-count": len(intake.rejected),
        }
        return 200, JSON, msgspec.json.encode(content).decode()
    return 200, TEXT, "OK"


def unavailable(reason: str) -> Reply:
    """Return the answer at which a sender keeps its records and comes again."""
    return 503, TEXT, f"{UNAVAILABLE}: {reason}"


@final
class _Body(BytesIO):
    """A request's body; past its bound it counts and keeps nothing."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate
        self._bytes_max = gate.settings.post_bytes_max
        self.held_bytes = 0
        self.is_too_large = False
        self.is_crowded_out = False

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Take a chunk."""
        if self.is_too_large or self.is_crowded_out:
            return len(data)
        if self.held_bytes + len(data) > self._bytes_max:
            self.is_too_large = True
        elif self._gate.body_bytes + len(data) > BODIES_BYTES_MAX:
            self.is_crowded_out = True
        else:
            self.held_bytes += len(data)
            self._gate.body_bytes += len(data)
            return super().write(data)
        self.release()
        return len(data)

    def release(self) -> None:
        """Give the memory back."""
        self._gate.body_bytes -= self.held_bytes
        self.held_bytes = 0
        self.seek(0)
        self.truncate()


@final
class CollectorRequest(Request):
    """One request; `process` is called when its body is complete."""

    _gate: Gate
    _body: _Body | None = None
    _is_taken = False

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        """Prepare for the body."""
        self._gate = self.channel.factory.gate
        self._body = self.content = _Body(self._gate)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802
        """Take the request line as it is: forms are parsed by us, in a worker."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.args = {}
        self.process()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        """Forget the body, unless it is being worked on: that goes on, and its memory counts until then."""
        if self._body is not None and not self._is_taken:
            self._body.release()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def process(self) -> None:
        """Answer, or see to it that somebody does."""
        path = self.path.rstrip(b"/")
        if self.method == b"POST" and path.endswith((RMI_SUFFIX, RECORDS_SUFFIX)):
            self._post(path)
        elif self.method in {b"GET", b"HEAD"}:
            self._reply(self._page(path))
        elif path.endswith((RMI_SUFFIX, RECORDS_SUFFIX)):
            self.setHeader(b"allow", b"POST")  # type: ignore[no-untyped-call]
            self._reply((405, TEXT, "Error: send records with POST"))
        else:
            self._reply((404, TEXT, "Error: records go to /gratia-servlets/rmi or /records"))

    def _post(self, path: bytes) -> None:
        gate = self._gate
        body = self._body
        assert body is not None, "gotLength comes before the body"
        refusal: Reply | None = None
        if body.is_too_large:
            refusal = (413, TEXT, TOO_LARGE)
        elif body.is_crowded_out or gate.busy_count >= gate.settings.posts_max:
            refusal = unavailable("too many requests at once")
        elif gate.is_stopping:
            refusal = unavailable("the collector is stopping")
        if refusal is not None:
            gate.counters.requests += 1
            gate.counters.request_errors += 1
            self._reply(refusal)
            return
        self._is_taken = True
        content = body.getvalue()
        record_bytes_max = gate.settings.record_bytes_max
        query = self.uri.partition(b"?")[2]
        if path.endswith(RECORDS_SUFFIX):
            client = self.getClientAddress()  # type: ignore[no-untyped-call]
            sender = str(getattr(client, "host", ""))
            gate.take(lambda: take_json(content, sender, record_bytes_max), self._reply)
        else:
            gate.take(lambda: take_form(query, content, record_bytes_max), self._reply)

    def _page(self, path: bytes) -> Reply:
        gate = self._gate
        if path.endswith(b"/stats"):
            return 200, JSON, msgspec.json.encode(gate.status()).decode()
        if path.endswith(b"/metrics"):
            return 200, "text/plain; version=0.0.4", metrics_text(gate.status())
        if path.endswith(b"/probes"):
            return 200, JSON, msgspec.json.encode(dict(gate.probes.probes)).decode()
        return 404, TEXT, "Error: there are /stats, /metrics and /probes to read"

    def _reply(self, reply: Reply) -> None:
        if self._body is not None:
            self._body.release()
        if self._disconnected or self.finished:
            return
        status, content_type, text = reply
        content = text.encode()
        self.setResponseCode(status)
        self.setHeader(b"content-type", content_type.encode())  # type: ignore[no-untyped-call]
        self.setHeader(b"content-length", str(len(content)).encode())  # type: ignore[no-untyped-call]
        if self.method != b"HEAD":
            self.write(content)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]


@final
class CollectorFactory(HTTPFactory):
    """Accepts connections up to a bound."""

    noisy = False

    def __init__(self, gate: Gate) -> None:
        super().__init__(timeout=gate.settings.idle_timeout_seconds)
        self.gate = gate
        self.connection_count = 0
        self.requestFactory = CollectorRequest

    def log(self, request: object) -> None:
        """Write no access log: the counters and the probes' book say more."""

    def buildProtocol(self, addr: IAddress | None) -> _GenericHTTPChannelProtocol | None:  # noqa: N802
        """Return a channel for a connection, or None (closed at once) when there are too many."""
        if self.connection_count >= self.gate.settings.connections_max:
            log.warning("more than %d connections: one refused", self.connection_count)
            return None
        channel = super().buildProtocol(addr)
        if channel is None:
            return None
        channel.requestFactory = CollectorRequest
        self.connection_count += 1
        lost = channel.connectionLost

        def connection_lost(reason: Failure) -> None:
            self.connection_count -= 1
            lost(reason)

        channel.connectionLost = connection_lost
        return channel


_METRICS: Final = (
    ("gracc_requests_total", "counter", "requests", "Requests answered"),
    ("gracc_request_errors_total", "counter", "request-errors", "Requests answered with an error"),
    ("gracc_records_total", "counter", "records", "Records accepted"),
    ("gracc_record_errors_total", "counter", "record-errors", "Records put into quarantine"),
    ("gridmsg_collector_published_total", "counter", "published", "Records confirmed at once"),
    ("gridmsg_collector_spooled_total", "counter", "spooled", "Records written to the spool"),
    ("gridmsg_collector_drained_total", "counter", "drained", "Spooled records confirmed"),
    ("gridmsg_collector_spool_files", "gauge", "spool-files", "Batches in the spool"),
    ("gridmsg_collector_spool_bytes", "gauge", "spool-bytes", "Bytes in the spool"),
    ("gridmsg_collector_quarantine_files", "gauge", "quarantine-files", "Files in quarantine"),
    ("gridmsg_collector_probes", "gauge", "probes", "Probes known"),
)


def metrics_text(status: dict[str, object]) -> str:
    """Return the counters in Prometheus' text format, under the reference collector's names where it has them."""
    lines: list[str] = []
    for name, kind, key, text in _METRICS:
        lines += (f"# HELP {name} {text}.", f"# TYPE {name} {kind}", f"{name} {status[key]}")
    return "\n".join(lines) + "\n"
