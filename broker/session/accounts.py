"""Changes of users, rights and vhosts, kept as definitions in the store.

What the configuration file says about users stands above what is stored, and is not changed here.  Every change is part
of the turn it is made in: whoever asked is answered when it is on stable storage, and a broker that takes over the store finds it.
Definitions: `["user", NAME]`, `["permission", VHOST, NAME]`, `["topic-permission", VHOST, NAME, EXCHANGE]`,
`["vhost", NAME]`.  Tests: tests/unit/broker/session/test_accounts.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

from broker.errors import NotFound, PreconditionFailed
from broker.session.auth import ADMINISTRATOR, ALL_RIGHTS, Accounts, Rights, User, compile_pattern
from broker.session.passwords import BUILT_IN, objection

if TYPE_CHECKING:
    from broker.core.broker import Broker

log = logging.getLogger(__name__)

NAME_BYTES_MAX: Final = 255
USERS_MAX: Final = 100_000
VHOSTS_MAX: Final = 1000
TAGS: Final = (ADMINISTRATOR, "link", "monitoring", "policymaker", "management", "impersonator")
"""RabbitMQ's tags, and `link` for who may open links; the first two and the last mean something here."""


@final
class AccountRegister:
    """The one place where accounts and vhosts change.  `on_changed` is called after each change."""

    def __init__(
        self, broker: Broker, accounts: Accounts, configured_vhosts: Iterable[str] = ("/",)
    ) -> None:
        self.accounts = accounts
        self.on_changed: Callable[[], None] = lambda: None
        self._broker = broker
        self._configured_vhosts = frozenset((*configured_vhosts, "/"))

    # Start

    def restore(self, definitions: Mapping[str, dict[str, Any]]) -> None:
        """Take over what the store holds; call once, before anybody logs in.  Nothing is written."""
        parsed = [(json.loads(key), made) for key, made in definitions.items()]
        for key, made in parsed:
            if key[0] == "vhost":
                self._broker.add_vhost(key[1])
            elif key[0] == "user":
                self._restore_user(key[1], made)
        for kind in ("permission", "topic-permission"):
            for key, made in parsed:
                if key[0] == kind:
                    self._restore_right(key, made)

    def _restore_user(self, name: str, made: dict[str, Any]) -> None:
        known = self.accounts.users.get(name)
        if known is not None and known.origin == "configuration":
            log.warning("user '%s': the configuration file stands above what is stored", name)
            return
        password = made.get("password", "")
        if made.get("is_deleted"):
            self.accounts.remove(name)
        elif known is None and password.startswith(BUILT_IN):
            # The built-in guest, switched off by the configuration.
            return
        else:
            self.accounts.add(User(name, password, "store", made.get("tags", ())))

    def _restore_right(self, key: list[str], made: dict[str, Any]) -> None:
        user = self.accounts.users.get(key[2])
        if user is None or user.origin != "store":
            return
        if key[0] == "permission":
            user.rights[key[1]] = Rights((made["configure"], made["write"], made["read"]))
        elif key[1] in user.rights:
            user.rights[key[1]].topics[key[3]] = (made["write"], made["read"])

    # Users

    def user(self, name: str) -> User:
        """The user of that name; raises NotFound."""
        found = self.accounts.users.get(name)
        if found is None:
            raise NotFound(f"no user '{name}'")
        return found

    def put_user(
        self, name: str, password_hash: str | None = None, tags: Iterable[str] | None = None
    ) -> None:
        """Make or change a user; None leaves what is there (for a new one: no password, no tags).

        `password_hash` empty: no login by password.  Raises PreconditionFailed.
        """
        if password_hash and (why := objection(password_hash)):
            raise PreconditionFailed(f"password of user '{name}': {why}")
        kept_tags = self.check_user(name, tags)
        user = self.accounts.users.get(name)
        if user is None:
            if len(self.accounts.users) >= USERS_MAX:
                raise PreconditionFailed(f"there are {USERS_MAX} users, the bound")
            user = User(name, password_hash or "", "store", kept_tags or ())
            try:
                self.accounts.add(user)
            except ValueError as error:
                raise PreconditionFailed(f"user '{name}': {error}") from None
        else:
            self._make_stored(user)
            if password_hash is not None:
                user.password_hash = password_hash
            if kept_tags is not None:
                user.tags = kept_tags
        self._write_user(user)
        self.on_changed()

    def check_user(self, name: str, tags: Iterable[str] | None) -> tuple[str, ...] | None:
        """Raise PreconditionFailed unless a user may have the name and tags; returns the tags without doubles."""
        _check_name(name, "user")
        return None if tags is None else _checked_tags(tags)

    def delete_user(self, name: str) -> None:
        """Delete a user with its rights; its connections are closed.  Raises NotFound, PreconditionFailed."""
        user = self.user(name)
        self._make_stored(user)
        for vhost in list(user.rights):
            self._forget_rights(user, vhost)
        # A mark is kept for guest only: without one it would be back at the next start.
        self._define(("user", name), {"is_deleted": True} if name == "guest" else None)
        self.accounts.remove(name)
        log.warning("user '%s' was deleted", name)
        self.on_changed()

    def _make_stored(self, user: User) -> None:
        """Make sure that a user may be changed; the built-in guest is written down first."""
        if user.origin == "configuration":
            raise PreconditionFailed(
                f"user '{user.name}' is in the configuration file: change it there"
            )
        if user.origin == "built-in":
            user.origin = "store"
            self._write_user(user)
            for vhost, rights in user.rights.items():
                self._write_rights(user, vhost, rights)

    def _write_user(self, user: User) -> None:
        self._define(("user", user.name), {"password": user.password_hash, "tags": list(user.tags)})

    # Rights

    def set_rights(self, name: str, vhost: str, configure: str, write: str, read: str) -> None:
        """Give a user rights in a vhost; raises NotFound, PreconditionFailed for a pattern that is none."""
        user = self.user(name)
        self._broker.vhost(vhost)
        try:
            rights = Rights((configure, write, read))
        except ValueError as error:
            raise PreconditionFailed(str(error)) from None
        self._make_stored(user)
        before = user.rights.get(vhost)
        if before is not None:
            rights.topics = before.topics
        user.rights[vhost] = rights
        self._write_rights(user, vhost, rights)
        self.on_changed()

    def clear_rights(self, name: str, vhost: str) -> None:
        """Take all rights in a vhost from a user, those on topics too; raises NotFound, PreconditionFailed."""
        user = self.user(name)
        if vhost not in user.rights:
            raise NotFound(f"user '{name}' has no rights in vhost '{vhost}'")
        self._make_stored(user)
        self._forget_rights(user, vhost)
        self.on_changed()

    def set_topic_rights(self, name: str, vhost: str, exchange: str, write: str, read: str) -> None:
        """Restrict the routing keys of a topic exchange for a user; raises NotFound, PreconditionFailed."""
        user = self.user(name)
        _check_name(exchange, "exchange")
        if vhost not in user.rights:
            raise NotFound(f"user '{name}' has no rights in vhost '{vhost}'")
        try:
            compile_pattern(write)
            compile_pattern(read)
        except ValueError as error:
            raise PreconditionFailed(str(error)) from None
        self._make_stored(user)
        user.rights[vhost].topics[exchange] = (write, read)
        self._define(("topic-permission", vhost, name, exchange), {"write": write, "read": read})
        self.on_changed()

    def clear_topic_rights(self, name: str, vhost: str, exchange: str | None = None) -> None:
        """Lift the restriction of one topic exchange, or of all; raises NotFound, PreconditionFailed."""
        user = self.user(name)
        rights = user.rights.get(vhost)
        found = (
            []
            if rights is None
            else [one for one in rights.topics if exchange is None or one == exchange]
        )
        if rights is None or not found:
            raise NotFound(f"user '{name}' has no such topic rights in vhost '{vhost}'")
        self._make_stored(user)
        for one in found:
            del rights.topics[one]
            self._define(("topic-permission", vhost, name, one), None)
        self.on_changed()

    def _write_rights(self, user: User, vhost: str, rights: Rights) -> None:
        configure, write, read = rights.patterns
        self._define(
            ("permission", vhost, user.name),
            {"configure": configure, "write": write, "read": read},
        )

    def _forget_rights(self, user: User, vhost: str) -> None:
        rights = user.rights.pop(vhost)
        for exchange in rights.topics:
            self._define(("topic-permission", vhost, user.name, exchange), None)
        self._define(("permission", vhost, user.name), None)

    # Vhosts

    def add_vhost(self, name: str, creator: str) -> None:
        """Make a vhost, and give all rights in it to who made it (RabbitMQ); the same again is no error."""
        _check_name(name, "vhost")
        if name in self._broker.vhosts:
            return
        if len(self._broker.vhosts) >= VHOSTS_MAX:
            raise PreconditionFailed(f"there are {VHOSTS_MAX} vhosts, the bound")
        self._broker.add_vhost(name)
        self._define(("vhost", name), {})
        user = self.accounts.users.get(creator)
        if user is not None and user.origin != "configuration":
            self.set_rights(creator, name, *ALL_RIGHTS)

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with all in it; its connections are closed.  Raises NotFound, PreconditionFailed."""
        vhost = self._broker.vhost(name)
        if name in self._configured_vhosts:
            raise PreconditionFailed(
                f"vhost '{name}' is in the configuration file, or the default one"
            )
        del self._broker.vhosts[name]
        for user in self.accounts.users.values():
            if name in user.rights:
                self._forget_rights(user, name)
        for exchange in list(vhost.exchanges):
            if exchange and not exchange.startswith("amq."):
                vhost.delete_exchange(exchange)
        for queue in list(vhost.queues.values()):
            vhost.drop_queue(queue)
        self._define(("vhost", name), None)
        log.warning("vhost '%s' was deleted", name)
        self.on_changed()

    def _define(self, key: tuple[str, ...], value: dict[str, Any] | None) -> None:
        self._broker.unit.define(json.dumps(list(key)), value)


def _check_name(name: str, kind: str) -> None:
    if not name or not name.isprintable() or len(name.encode()) > NAME_BYTES_MAX:
        raise PreconditionFailed(
            f"a {kind} name of 1 to {NAME_BYTES_MAX} printable characters expected"
        )


def _checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(tags))
    for tag in found:
        if tag not in TAGS:
            raise PreconditionFailed(f"'{tag}' is no tag: {', '.join(TAGS)}")
    return found
