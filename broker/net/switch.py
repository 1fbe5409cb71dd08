"""A listening factory whose work may be handed to another one while it listens.

A standby's management listener becomes the active broker's without closing its port.  Tests:
tests/unit/broker/net/test_switch.py.
"""

from __future__ import annotations

import weakref
from typing import Any, final

from twisted.internet.protocol import Factory


@final
class SwitchFactory(Factory):
    """Passes connections to the factory of the moment."""

    noisy = False

    def __init__(self, target: Factory) -> None:
        self._target = target
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        target.noisy = False

    def switch(self, target: Factory) -> None:
        """Pass new connections to another factory from now on, and drop those of the former one."""
        for protocol in list(self._made):
            transport = getattr(protocol, "transport", None)
            if transport is not None:
                transport.abortConnection()
        self._made.clear()
        former, self._target = self._target, target
        target.noisy = False
        if self.numPorts:
            target.doStart()
            former.doStop()

    def startFactory(self) -> None:  # noqa: N802 - Twisted's name
        """Start with the port."""
        self._target.doStart()

    def stopFactory(self) -> None:  # noqa: N802 - Twisted's name
        """Stop with the port."""
        self._target.doStop()

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        made = self._target.buildProtocol(addr)
        if made is not None:
            self._made.add(made)
        return made
