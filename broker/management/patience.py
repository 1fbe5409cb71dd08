"""How long a caller may take to ask: an HTTP channel with a deadline for a request's headers and one for all of it.

Twisted's own timeout begins anew with each byte, so that who sends one now and then holds a connection for ever.  Here bytes gain no
time: the headers must be there HEADERS_SECONDS after their first byte (of the first request: after connecting), the body REQUEST_SECONDS
after them.  Between requests a connection may be idle for IDLE_SECONDS; while an answer is made no time counts.
Tests: tests/unit/broker/management/test_patience.py, tests/interop/test_attacks.py.
"""

from __future__ import annotations

import logging
from typing import Any, Final, final

from twisted.web.http import HTTPChannel, Request
from twisted.web.resource import Resource
from twisted.web.server import Site

log = logging.getLogger(__name__)

HEADERS_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 60.0


@final
class PatientChannel(HTTPChannel):
    """One connection; `is_asking` from the first byte of a request until its answer is done."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_asking = False

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self.timeOut = HEADERS_SECONDS  # type: ignore[assignment]
        super().connectionMade()  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._handlingRequest:
            self._begin()
        super().dataReceived(data)  # type: ignore[no-untyped-call]

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        """Take a line; it may be the first of a request that came together with the one before."""
        self._begin()
        super().lineReceived(line)  # type: ignore[no-untyped-call]

    def _begin(self) -> None:
        if not self.is_asking:
            self.is_asking = True
            self._wait(HEADERS_SECONDS)

    def _wait(self, seconds: float) -> None:
        self.setTimeout(seconds)  # type: ignore[no-untyped-call]

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted's name
        """Gain no time by a byte more."""

    def allHeadersReceived(self) -> None:  # noqa: N802 - Twisted's name
        """Wait for the body."""
        self._wait(REQUEST_SECONDS)
        super().allHeadersReceived()  # type: ignore[no-untyped-call]

    def requestDone(self, request: Request) -> None:  # noqa: N802 - Twisted's name
        """Wait for the next request, unless it has come already."""
        self.is_asking = False
        super().requestDone(request)  # type: ignore[no-untyped-call]
        if self.persistent and not self.is_asking:
            self._wait(IDLE_SECONDS)

    def timeoutConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Give up on the caller."""
        if self.is_asking:
            transport: Any = self.transport
            host = getattr(transport.getPeer(), "host", "unix socket")
            log.warning("management: %s did not send its request in time, closed", host)
        super().timeoutConnection()  # type: ignore[no-untyped-call]


def patient(resource: Resource) -> Site:
    """An HTTP server of this resource whose callers have so much time."""
    made = Site(resource, timeout=int(IDLE_SECONDS))
    made.protocol = PatientChannel  # type: ignore[assignment]
    made.displayTracebacks = False
    made.noisy = False
    return made
