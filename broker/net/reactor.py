"""Twisted's reactor, imported without the TLS that it has ready for `startTLS`.

That is 0.2 s of processor time and 12 MB at every start, and nothing of ours starts TLS in the middle of a connection: listeners
with TLS wrap their factories (`broker.net.tls`), which imports OpenSSL when one is configured.  Tests:
tests/unit/broker/net/test_reactor.py, tests/interop/test_tls.py.
"""

from __future__ import annotations

import sys
from typing import Any, Final

_TLS: Final = "OpenSSL"


def import_reactor() -> Any:
    """Give the reactor; what it would import for TLS is left out unless it is there already."""
    # In the table of modules None makes an import fail, and Twisted does without.
    modules: dict[str, Any] = sys.modules
    is_absent = _TLS not in modules
    if is_absent:
        modules[_TLS] = None
    try:
        from twisted.internet import reactor
    finally:
        if is_absent:
            del modules[_TLS]
    return reactor
