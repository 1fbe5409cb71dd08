"""A listener whose modules are imported after the broker serves: they must not cost its start.

The first connection, or `prepare` a little after the start, brings them in; `prepare` imports in a thread, so that no turn
waits for it.  Tests: tests/unit/broker/net/test_late.py.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any, final

from twisted.internet.protocol import Factory


@final
class LateFactory(Factory):
    """Stands in for the factory that `make` gives, which needs `module`."""

    noisy = False

    def __init__(self, module: str, make: Callable[[], Factory]) -> None:
        self._module = module
        self._make = make
        self._made: Factory | None = None

    def prepare(self) -> None:
        """Import the module in a thread of its own; returns at once."""
        if self._made is None:
            threading.Thread(
                target=importlib.import_module, args=(self._module,), daemon=True
            ).start()

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        made = self._made
        if made is None:
            made = self._made = self._make()
            made.noisy = False
            made.doStart()
        return made.buildProtocol(addr)

    def stopFactory(self) -> None:  # noqa: N802 - Twisted's name
        """Stop what was made."""
        if self._made is not None:
            self._made.doStop()
