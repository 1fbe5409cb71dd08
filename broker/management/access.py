"""Users, their rights, and vhosts, in the shapes of RabbitMQ's management API.

Only administrators ask here; what may be changed how is told by `session.accounts`.  A password hash is never shown.
Tests: tests/unit/broker/management/test_access.py.
"""

from __future__ import annotations

from typing import Any

from broker.errors import NotFound
from broker.management.call import MADE, BadCall, Call, Slow
from broker.session.auth import User
from broker.session.passwords import BUILT_IN, check_password, hash_password

# Users


def users(call: Call) -> Any:
    """GET /api/users."""
    call.administrator()
    return [_user(one) for one in _all(call)]


def user(call: Call) -> Any:
    """GET /api/users/NAME."""
    call.administrator()
    return _user(call.register.user(call.path[0]))


def put_user(call: Call) -> Any:
    """PUT /api/users/NAME: `password` or `password_hash` (Argon2; empty: none), `tags`; what is not named stays.

    A plain `password` is hashed outside the reactor thread; `gridmsg user` sends hashes.
    """
    call.administrator()
    name, tags = call.path[0], _tags(call)
    if "password_hash" in call.body:
        return _put_user(call, name, call.text("password_hash"), tags)
    if "password" not in call.body:
        return _put_user(call, name, None, tags)
    password = call.text("password")
    try:
        check_password(password)
    except ValueError as error:
        raise BadCall(f"'password': {error}") from None
    call.register.check_user(name, tags)
    hashed: list[str] = []

    def work() -> bool:
        hashed.append(hash_password(password))
        return True

    def finish() -> Any:
        # Who asked may have lost the right while it was hashed.
        call.administrator()
        return _put_user(call, name, hashed[0], tags)

    return Slow(work, finish)


def _put_user(call: Call, name: str, password_hash: str | None, tags: list[str] | None) -> Any:
    is_new = name not in call.register.accounts.users
    call.register.put_user(name, password_hash, tags)
    return MADE if is_new else None


def delete_user(call: Call) -> Any:
    """DELETE /api/users/NAME."""
    call.administrator()
    call.register.delete_user(call.path[0])
    return None


def _all(call: Call) -> list[User]:
    users = call.register.accounts.users
    return [users[name] for name in sorted(users)]


def _user(one: User) -> dict[str, Any]:
    kind = "argon2" if one.password_hash else "none"
    return {
        "name": one.name,
        "tags": list(one.tags),
        "password": "built-in" if one.password_hash.startswith(BUILT_IN) else kind,
        "origin": one.origin,
    }


def _tags(call: Call) -> list[str] | None:
    value = call.body.get("tags")
    if value is None:
        return None
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise BadCall("'tags': a list of texts, or a text with commas, expected")
    return value


# Rights


def permissions(call: Call) -> Any:
    """GET /api/permissions."""
    call.administrator()
    return [row for one in _all(call) for row in _rights(one)]


def permissions_of_user(call: Call) -> Any:
    """GET /api/users/NAME/permissions."""
    call.administrator()
    return _rights(call.register.user(call.path[0]))


def permissions_of_vhost(call: Call) -> Any:
    """GET /api/vhosts/NAME/permissions."""
    call.administrator()
    name = call.broker.vhost(call.path[0]).name
    return [row for row in permissions(call) if row["vhost"] == name]


def permission(call: Call) -> Any:
    """GET /api/permissions/VHOST/USER."""
    call.administrator()
    vhost, name = call.path
    for row in _rights(call.register.user(name)):
        if row["vhost"] == vhost:
            return row
    raise NotFound(f"user '{name}' has no rights in vhost '{vhost}'")


def put_permission(call: Call) -> Any:
    """PUT /api/permissions/VHOST/USER: `configure`, `write`, `read`."""
    call.administrator()
    vhost, name = call.path
    three = call.text("configure"), call.text("write"), call.text("read")
    is_new = vhost not in call.register.user(name).rights
    call.register.set_rights(name, vhost, *three)
    return MADE if is_new else None


def delete_permission(call: Call) -> Any:
    """DELETE /api/permissions/VHOST/USER."""
    call.administrator()
    vhost, name = call.path
    call.register.clear_rights(name, vhost)
    return None


def _rights(one: User) -> list[dict[str, Any]]:
    return [
        {
            "user": one.name,
            "vhost": vhost,
            "configure": rights.patterns[0],
            "write": rights.patterns[1],
            "read": rights.patterns[2],
        }
        for vhost, rights in sorted(one.rights.items(), key=lambda found: found[0])
    ]


# Rights on routing keys of topic exchanges


def topic_permissions(call: Call) -> Any:
    """GET /api/topic-permissions."""
    call.administrator()
    return [row for one in _all(call) for row in _topic_rights(one)]


def topic_permissions_of_user(call: Call) -> Any:
    """GET /api/users/NAME/topic-permissions."""
    call.administrator()
    return _topic_rights(call.register.user(call.path[0]))


def topic_permission(call: Call) -> Any:
    """GET /api/topic-permissions/VHOST/USER."""
    call.administrator()
    vhost, name = call.path
    return [row for row in _topic_rights(call.register.user(name)) if row["vhost"] == vhost]


def put_topic_permission(call: Call) -> Any:
    """PUT /api/topic-permissions/VHOST/USER: `exchange`, `write`, `read`."""
    call.administrator()
    vhost, name = call.path
    exchange, write, read = call.text("exchange"), call.text("write"), call.text("read")
    rights = call.register.user(name).rights.get(vhost)
    is_new = rights is not None and exchange not in rights.topics
    call.register.set_topic_rights(name, vhost, exchange, write, read)
    return MADE if is_new else None


def delete_topic_permission(call: Call) -> Any:
    """DELETE /api/topic-permissions/VHOST/USER?exchange=NAME; without the exchange all of them."""
    call.administrator()
    vhost, name = call.path
    call.register.clear_topic_rights(name, vhost, call.query.get("exchange"))
    return None


def _topic_rights(one: User) -> list[dict[str, Any]]:
    return [
        {"user": one.name, "vhost": vhost, "exchange": exchange, "write": write, "read": read}
        for vhost, rights in sorted(one.rights.items(), key=lambda found: found[0])
        for exchange, (write, read) in sorted(rights.topics.items())
    ]


# Vhosts


def vhost(call: Call) -> Any:
    """GET /api/vhosts/NAME."""
    return {"name": call.vhost().name}


def put_vhost(call: Call) -> Any:
    """PUT /api/vhosts/NAME; who makes it gets all rights in it."""
    call.administrator()
    is_new = call.path[0] not in call.broker.vhosts
    call.register.add_vhost(call.path[0], call.identity.name)
    return MADE if is_new else None


def delete_vhost(call: Call) -> Any:
    """DELETE /api/vhosts/NAME, with all that is in it."""
    call.administrator()
    call.register.delete_vhost(call.path[0])
    return None
