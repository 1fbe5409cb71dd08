"""Who a peer is and what it may do.

Rights are RabbitMQ's: per vhost three patterns (configure, write, read) on resource names.
Tests: tests/unit/broker/session/test_auth.py.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from typing import Literal, final

from broker.errors import AccessRefused

Operation = Literal["configure", "write", "read"]


@final
class Identity:
    """A user who has logged in."""

    __slots__ = ("_patterns", "is_administrator", "name")

    def __init__(
        self,
        name: str,
        permissions: Mapping[str, tuple[str, str, str]],
        is_administrator: bool = False,
    ) -> None:
        self.name = name
        self.is_administrator = is_administrator
        self._patterns: dict[str, dict[str, re.Pattern[str]]] = {
            vhost: {
                "configure": re.compile(three[0]),
                "write": re.compile(three[1]),
                "read": re.compile(three[2]),
            }
            for vhost, three in permissions.items()
        }

    def may_enter(self, vhost: str) -> bool:
        """Whether the user has any permissions in the vhost."""
        return vhost in self._patterns

    def check(
        self, vhost: str, operation: Operation, kind: Literal["queue", "exchange"], name: str
    ) -> None:
        """Raise AccessRefused, with RabbitMQ's text, unless the user has the right."""
        patterns = self._patterns.get(vhost)
        shown = name or ("amq.default" if kind == "exchange" else name)
        if patterns is not None and patterns[operation].search(shown):
            return
        raise AccessRefused(
            f"{operation} access to {kind} '{shown}' in vhost '{vhost}' refused for user '{self.name}'"
        )


@final
class Accounts:
    """The users a broker knows.

    `passwords` maps names to either `plain:<text>` (only for the built-in guest) or an argon2 hash; `guest` is accepted from
    loopback addresses only.
    """

    def __init__(
        self,
        passwords: Mapping[str, str],
        permissions: Mapping[str, Mapping[str, tuple[str, str, str]]],
        verify_hash: Callable[[str, str], bool],
        administrators: frozenset[str] = frozenset(),
    ) -> None:
        self._passwords = dict(passwords)
        self._permissions = {name: dict(rights) for name, rights in permissions.items()}
        self._verify_hash = verify_hash
        self._administrators = administrators

    @classmethod
    def guest_only(cls, vhosts: tuple[str, ...] = ("/",)) -> Accounts:
        """The accounts of a fresh broker: guest/guest, from loopback, with every right."""
        return cls(
            {"guest": "plain:guest"},
            {"guest": dict.fromkeys(vhosts, (".*", ".*", ".*"))},
            lambda _hash, _password: False,
            frozenset({"guest"}),
        )

    def login(self, name: str, password: str, is_loopback: bool) -> Identity:
        """The identity of a user with the right password; raises AccessRefused."""
        known = self._passwords.get(name)
        if known is None:
            raise AccessRefused(f"Access refused for user '{name}'")
        if known.startswith("plain:"):
            is_right = hmac.compare_digest(known[6:].encode(), password.encode())
        else:
            is_right = self._verify_hash(known, password)
        if not is_right:
            raise AccessRefused(f"Access refused for user '{name}'")
        if name == "guest" and not is_loopback:
            raise AccessRefused("non-loopback access denied")
        return Identity(name, self._permissions.get(name, {}), name in self._administrators)
