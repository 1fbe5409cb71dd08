"""One call of the management API, and the reading of its parts with bounds.

Tests: tests/unit/broker/management/test_api.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final

from broker.core.broker import Broker
from broker.core.vhost import Vhost
from broker.errors import AccessRefused, BrokerError
from broker.session.accounts import AccountRegister
from broker.session.auth import Identity, Operation, TopicOperation

if TYPE_CHECKING:
    from broker.management.links import LinkRegister


class BadCall(BrokerError):
    """A call that cannot be understood; answered with status 400."""


@final
class Made:
    """The result of a call that made a new object: status 201 without a body, as RabbitMQ answers."""


MADE: Final = Made()


CloseConnection = Callable[[str, str], bool]
"""Closes connections by their name, with a text for the peer; False: there is none of that name."""


@final
@dataclass(frozen=True, slots=True)
class Slow:
    """The result of a call that needs slow work: `work` runs outside the reactor thread, then `finish` gives the result."""

    work: Callable[[], bool]
    finish: Callable[[], Any]


@final
@dataclass(frozen=True, slots=True)
class Call:
    """Who asks what.  `path` holds the variable parts of the address, unquoted."""

    broker: Broker
    identity: Identity
    path: tuple[str, ...]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    describe: Callable[[], dict[str, Any]]
    version: str
    register: AccountRegister
    links: LinkRegister | None = None
    close_connection: CloseConnection | None = None

    def vhost(self, index: int = 0) -> Vhost:
        """The vhost named by a part of the path; raises NotFound, AccessRefused."""
        found = self.broker.vhost(self.path[index])
        if not self.identity.may_enter(found.name):
            raise AccessRefused(
                f"access to vhost '{found.name}' refused for '{self.identity.name}'"
            )
        return found

    def vhosts(self) -> list[Vhost]:
        """The vhosts that the user may enter, or the one that the path names."""
        if self.path:
            return [self.vhost()]
        return [one for one in self.broker.vhosts.values() if self.identity.may_enter(one.name)]

    def check(
        self, vhost: Vhost, operation: Operation, kind: Literal["queue", "exchange"], name: str
    ) -> None:
        """Raise AccessRefused unless the user has the right."""
        self.identity.check(vhost.name, operation, kind, name)

    def check_topic(self, vhost: Vhost, operation: TopicOperation, exchange: str, key: str) -> None:
        """Raise AccessRefused unless the routing key is allowed, if it is a topic exchange."""
        found = vhost.exchanges.get(exchange)
        if found is not None and found.kind == "topic":
            self.identity.check_topic(vhost.name, operation, exchange, key)

    def administrator(self) -> None:
        """Raise AccessRefused unless the user is an administrator."""
        if not self.identity.is_administrator:
            raise AccessRefused(f"'{self.identity.name}' is not an administrator")

    def text(self, key: str, default: str | None = None) -> str:
        """A text of the body; raises BadCall."""
        value = self.body.get(key, default)
        if not isinstance(value, str):
            raise BadCall(f"'{key}': a text expected")
        return value

    def flag(self, key: str) -> bool:
        """A boolean of the body, False if it is not there; raises BadCall."""
        value = self.body.get(key, False)
        if isinstance(value, str) and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            raise BadCall(f"'{key}': true or false expected")
        return value

    def asked(self, key: str) -> bool:
        """Whether the query says `key=true`."""
        return self.query.get(key, "false").lower() in ("true", "1")

    def count(self, key: str, default: int, highest: int) -> int:
        """A number of body or query, from 0 to `highest`; raises BadCall."""
        value: Any = self.body.get(key, self.query.get(key, default))
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = -1
        if isinstance(value, bool) or number < 0:
            raise BadCall(f"'{key}': a number from 0 to {highest} expected")
        return min(number, highest)

    def arguments(self) -> dict[str, Any]:
        """The `arguments` of the body; raises BadCall."""
        value = self.body.get("arguments", {})
        if not isinstance(value, dict):
            raise BadCall("'arguments': an object expected")
        return value
