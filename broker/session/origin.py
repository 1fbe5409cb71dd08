"""Whether what comes from a loopback address is a program of this machine, or speaks for somebody elsewhere.

A web page of anywhere runs in a browser of this machine, and a proxy brings in the whole network: neither may be guest.  Browsers
say whose page it is (`Origin`), and by which name they have found us (`Host`: a name that somebody else owns may be made to mean
127.0.0.1).  Tests: tests/unit/broker/session/test_origin.py.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

PROXY_HEADERS: Final = ("x-forwarded-for", "forwarded", "x-real-ip", "via")
"""What a proxy adds to a request."""


def is_own_name(host: str) -> bool:
    """Whether a `Host` header calls us by an address or a name of this machine; none at all is no browser's."""
    name = _name_of(f"//{host}")
    if name is None:
        return False
    if not host or name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) or name == socket.gethostname().lower()


def is_own_page(origin: str) -> bool:
    """Whether an `Origin` header names a page that this machine serves to itself; none at all is no browser's."""
    if not origin:
        return True
    name = _name_of(origin)
    if not name:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _name_of(url: str) -> str | None:
    """The host's name in a URL, empty if there is none; None for what is no URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
