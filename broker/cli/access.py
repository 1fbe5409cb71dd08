"""`gridmsg user`, `gridmsg permission` and `gridmsg vhost`, by the management API.

Passwords are asked for or read from a file, never taken as an argument (other users see those); they are hashed here, so that
neither the network nor the broker sees them.  Tests: tests/unit/broker/cli/test_access.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from broker.cli.base import Failure, Place, broker_options, json_option, print_rows, say

TAGS = ("administrator", "link", "monitoring", "policymaker", "management", "impersonator")

vhost_option = click.option("--vhost", default="/", help="Virtual host.", show_default=True)
password_file_option = click.option(
    "--password-file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="File whose first line is the password; -: standard input.  [default: ask]",
)


# Users


@click.group()
def user() -> None:
    """Users: list, add, delete, change password and tags."""


@user.command(name="list")
@broker_options
@json_option
def user_list(place: Place, as_json: bool) -> None:
    """List the users; `origin` says whether the configuration file or the store has them."""
    rows = place.client().get("users")
    print_rows(rows, ("name", "tags", "password", "origin"), as_json, "no users")


@user.command(name="add")
@click.argument("name")
@click.option("--tag", "tags", multiple=True, type=click.Choice(TAGS), help="As often as needed.")
@click.option("--no-password", is_flag=True, help="No login by password: by certificate only.")
@password_file_option
@broker_options
def user_add(
    place: Place,
    name: str,
    tags: tuple[str, ...],
    no_password: bool,
    password_file: Path | None,
) -> None:
    """Add a user.  It may do nothing until `gridmsg permission set` says so.

    A user who logs in by certificate has its subject as name, in either spelling, or a row of `[auth.dn-map]`.
    """
    client = place.client()
    if any(one["name"] == name for one in client.get("users")):
        raise Failure(f"user {name} is there: see `gridmsg user password` and `gridmsg user tags`")
    hashed = "" if no_password else _hash(_password(password_file))
    client.put("users", name, body={"password_hash": hashed, "tags": list(tags)})
    say(f"user {name} added; it has no rights yet: see `gridmsg permission set`")


@user.command(name="delete")
@click.argument("name")
@broker_options
def user_delete(place: Place, name: str) -> None:
    """Delete a user and its rights, and close its connections."""
    place.client().delete("users", name)
    say(f"user {name} deleted")


@user.command(name="password")
@click.argument("name")
@click.option("--no-password", is_flag=True, help="No login by password any more.")
@password_file_option
@broker_options
def user_password(place: Place, name: str, no_password: bool, password_file: Path | None) -> None:
    """Change a user's password; connections that are open stay."""
    client = place.client()
    client.get("users", name)
    hashed = "" if no_password else _hash(_password(password_file))
    client.put("users", name, body={"password_hash": hashed})
    say(f"password of user {name} {'taken away' if no_password else 'changed'}")


@user.command(name="tags")
@click.argument("name")
@click.argument("tags", nargs=-1, type=click.Choice(TAGS))
@broker_options
def user_tags(place: Place, name: str, tags: tuple[str, ...]) -> None:
    """Set a user's tags; without TAGS none are left.  `administrator` may change everything, `link` may open links."""
    client = place.client()
    client.get("users", name)
    client.put("users", name, body={"tags": list(tags)})
    say(f"tags of user {name}: {', '.join(tags) or 'none'}")


@user.command(name="hash")
@password_file_option
def user_hash(password_file: Path | None) -> None:
    """Print the Argon2 hash of a password, for `[auth.users.NAME]` of the configuration file."""
    say(_hash(_password(password_file)))


def _password(file: Path | None) -> str:
    if file is not None:
        try:
            text = sys.stdin.readline() if str(file) == "-" else file.read_text().partition("\n")[0]
        except UnicodeDecodeError:
            raise Failure(f"{file}: not a text in UTF-8") from None
        return text.rstrip("\r\n")
    asked: str = click.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
    return asked


def _hash(password: str) -> str:
    from broker.session.passwords import hash_password

    try:
        return hash_password(password)
    except ValueError as error:
        raise Failure(str(error)) from None


# Rights


@click.group()
def permission() -> None:
    """Rights of users on queues, exchanges and topics: list, set, clear."""


@permission.command(name="list")
@click.option("--user", "name", help="Of one user only.")
@broker_options
@json_option
def permission_list(place: Place, name: str | None, as_json: bool) -> None:
    """List who may configure, write and read what: patterns on names, by vhost."""
    client = place.client()
    rows = client.get("permissions") if name is None else client.get("users", name, "permissions")
    print_rows(rows, ("user", "vhost", "configure", "write", "read"), as_json, "no rights")


@permission.command(name="set")
@click.argument("user_name", metavar="USER")
@click.argument("configure")
@click.argument("write")
@click.argument("read")
@vhost_option
@broker_options
def permission_set(
    place: Place, user_name: str, configure: str, write: str, read: str, vhost: str
) -> None:
    """Give a user rights in a vhost.

    CONFIGURE, WRITE and READ are patterns: found anywhere in the name of a queue or exchange; '.*' is everything, '' nothing.
    """
    body = {"configure": configure, "write": write, "read": read}
    place.client().put("permissions", vhost, user_name, body=body)
    say(
        f"user {user_name} in vhost {vhost}: configure '{configure}', write '{write}', read '{read}'"
    )


@permission.command(name="clear")
@click.argument("user_name", metavar="USER")
@vhost_option
@broker_options
def permission_clear(place: Place, user_name: str, vhost: str) -> None:
    """Take all rights in a vhost from a user, and close its connections to it."""
    place.client().delete("permissions", vhost, user_name)
    say(f"user {user_name} has no rights in vhost {vhost} any more")


@permission.command(name="topics")
@click.option("--user", "name", help="Of one user only.")
@broker_options
@json_option
def permission_topics(place: Place, name: str | None, as_json: bool) -> None:
    """List the rights on routing keys of topic exchanges."""
    client = place.client()
    rows = (
        client.get("topic-permissions")
        if name is None
        else client.get("users", name, "topic-permissions")
    )
    columns = ("user", "vhost", "exchange", "write", "read")
    print_rows(rows, columns, as_json, "no topic rights: all routing keys are allowed")


@permission.command(name="set-topic")
@click.argument("user_name", metavar="USER")
@click.argument("exchange")
@click.argument("write")
@click.argument("read")
@vhost_option
@broker_options
def permission_set_topic(
    place: Place, user_name: str, exchange: str, write: str, read: str, vhost: str
) -> None:
    """Restrict the routing keys that a user may use with a topic exchange.

    WRITE and READ are patterns; {username} and {vhost} stand for the names.
    """
    body = {"exchange": exchange, "write": write, "read": read}
    place.client().put("topic-permissions", vhost, user_name, body=body)
    say(f"user {user_name} with exchange {exchange}: keys to write '{write}', to read '{read}'")


@permission.command(name="clear-topic")
@click.argument("user_name", metavar="USER")
@click.argument("exchange", required=False)
@vhost_option
@broker_options
def permission_clear_topic(place: Place, user_name: str, exchange: str | None, vhost: str) -> None:
    """Lift the restriction of one topic exchange, or of all."""
    query: dict[str, Any] = {} if exchange is None else {"exchange": exchange}
    place.client().delete("topic-permissions", vhost, user_name, **query)
    say(f"user {user_name} may use all routing keys of {exchange or 'all exchanges'} again")


# Vhosts


@click.group()
def vhost() -> None:
    """Virtual hosts: list, add, delete."""


@vhost.command(name="list")
@broker_options
@json_option
def vhost_list(place: Place, as_json: bool) -> None:
    """List the vhosts that you may enter."""
    print_rows(place.client().get("vhosts"), ("name",), as_json, "no vhosts")


@vhost.command(name="add")
@click.argument("name")
@broker_options
def vhost_add(place: Place, name: str) -> None:
    """Make a vhost; you get all rights in it.  The same again is no error."""
    place.client().put("vhosts", name)
    say(f"vhost {name} is there")


@vhost.command(name="delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@broker_options
def vhost_delete(place: Place, name: str, yes: bool) -> None:
    """Delete a vhost with its queues and messages, and close the connections to it."""
    if not yes:
        click.confirm(f"delete vhost {name} with all messages in it?", abort=True, err=True)
    place.client().delete("vhosts", name)
    say(f"vhost {name} deleted")
