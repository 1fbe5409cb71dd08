"""`gridmsg certs`: a site's own authority and its certificates.  Stands alone: it knows a folder, not the broker.

Tests: tests/unit/certs/test_cli.py.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from certs.errors import CertsFailure

if TYPE_CHECKING:
    from certs.authority import Authority, Made

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = "certs"


class _Refused(click.ClickException):
    """A refusal, shown as all commands show theirs."""

    def show(self, file: Any = None) -> None:
        click.echo(f"gridmsg: {self.message}", err=True)


def _folder_option(function: F) -> F:
    """Add `--data` and `--folder`; failures become one line on stderr and status 1."""

    @click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="GRIDMSG_DATA",
        help="Data folder of the site, whose `certs` folder is used.  [default: ./data]",
    )
    @click.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="GRIDMSG_CERTS",
        help="Folder of the authority, instead.",
    )
    @functools.wraps(function)
    def wrapped(*arguments: Any, data: Path | None, folder: Path | None, **rest: Any) -> Any:
        folder = folder or (data or Path("data")) / FOLDER
        try:
            return function(*arguments, folder=folder, **rest)
        except CertsFailure as error:
            _refuse(error)

    return wrapped  # type: ignore[return-value]


def _refuse(error: CertsFailure) -> NoReturn:
    raise _Refused(str(error)) from None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _authority(folder: Path) -> Authority:
    from certs.authority import Authority

    return Authority(folder, _now())


@click.group()
def certs() -> None:
    """Certificates: the site's own authority, hosts, clients."""


@certs.command(name="init")
@click.option(
    "--subject",
    help="Name of the authority, such as /DC=ch/DC=site/CN=Authority.  [default: /O=gridmsg/OU=HOST/CN=gridmsg authority]",
)
@click.option("--days", type=click.IntRange(1, 20 * 366), help="Lifetime.  [default: 10 years]")
@_folder_option
def certs_init(folder: Path, subject: str | None, days: int | None) -> None:
    """Make the site's authority.

    Its key signs everything: keep `ca.key` where only you come, or take it off the machine when you are done.
    """
    from certs.authority import AUTHORITY_DAYS

    subject = subject or f"/O=gridmsg/OU={socket.gethostname()[:60]}/CN=gridmsg authority"
    made = _authority(folder).init(subject, days or AUTHORITY_DAYS)
    _say_made("authority", made)
    click.echo("")
    click.echo("next: gridmsg certs host NAME, with the name by which clients know the broker")


@certs.command(name="host")
@click.argument("name")
@click.option("--also", multiple=True, help="Another host name or address; as often as needed.")
@click.option(
    "--loopback/--no-loopback",
    default=True,
    help="Also for localhost, 127.0.0.1 and ::1.  [default: yes]",
)
@click.option("--days", type=click.IntRange(1, 3653), help="Lifetime.  [default: 397 days]")
@_folder_option
def certs_host(
    folder: Path, name: str, also: tuple[str, ...], loopback: bool, days: int | None
) -> None:
    """Make the certificate of a broker's or collector's host."""
    from certs.authority import HOST_DAYS, LOOPBACK_NAMES

    names = (*also, *(LOOPBACK_NAMES if loopback else ()))
    authority = _authority(folder)
    made = authority.host(name, names, days or HOST_DAYS)
    _say_made("host", made)
    click.echo("")
    click.echo("for gridmsg.toml (paths are taken from its folder on):")
    click.echo("")
    click.echo("[tls]")
    click.echo(f"certificate = {json.dumps(os.fspath(made.certificate.resolve()))}")
    click.echo(f"key = {json.dumps(os.fspath(made.key.resolve()))}")
    click.echo(f"ca = {json.dumps(os.fspath(authority.certificate.resolve()))}")
    click.echo("")
    click.echo("[[listener]]")
    click.echo('protocol = "stomp"')
    click.echo('address = "0.0.0.0:61614"')
    click.echo("tls = true")


@certs.command(name="client")
@click.argument("subject", metavar="DN")
@click.option("--days", type=click.IntRange(1, 3653), help="Lifetime.  [default: 365 days]")
@_folder_option
def certs_client(folder: Path, subject: str, days: int | None) -> None:
    """Make the certificate of a client, by its distinguished name.

    DN is /DC=ch/DC=site/CN=me, or CN=me,DC=site,DC=ch, or a bare name that goes beside the authority's.
    """
    from certs.authority import CLIENT_DAYS

    authority = _authority(folder)
    made = authority.client(subject, days or CLIENT_DAYS)
    _say_made("client", made)
    click.echo("")
    click.echo("the broker lets it in as a user of that name:")
    click.echo(f"  gridmsg user add '{made.slash_name}' --no-password")
    click.echo(f"  gridmsg permission set '{made.slash_name}' CONFIGURE WRITE READ")
    click.echo("or, in gridmsg.toml, as another user:")
    click.echo("  [auth.dn-map]")
    click.echo(f'  {json.dumps(made.slash_name, ensure_ascii=False)} = "USER"')
    click.echo(
        f"the client needs {made.certificate}, {made.key} (secret) and {authority.certificate}"
    )


def _say_made(kind: str, made: Made) -> None:
    click.echo(f"{kind:<12}{made.slash_name}")
    click.echo(f"{'':<12}{made.comma_name}")
    click.echo(f"certificate {made.certificate}")
    click.echo(f"key         {made.key}  (mode 600)")
    click.echo(f"expires     {made.expires_at:%Y-%m-%d}")


@certs.command(name="show")
@click.argument(
    "file", type=click.Path(dir_okay=False, exists=True, path_type=Path), required=False
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@_folder_option
def certs_show(folder: Path, file: Path | None, as_json: bool) -> None:
    """Show what a certificate says; without FILE the authority's."""
    from certs.authority import AUTHORITY_CERTIFICATE
    from certs.inspect import describe, load

    found = [describe(one) for one in load(file or folder / AUTHORITY_CERTIFICATE)]
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for index, one in enumerate(found):
        if index:
            click.echo("")
        for key, value in one.items():
            text = ", ".join(value) or "-" if isinstance(value, list) else value
            click.echo(f"{key.replace('_', ' '):<18}{text}")


@certs.command(name="check")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@_folder_option
def certs_check(folder: Path, as_json: bool) -> int:
    """Check the authority and all it made: expiry, keys, signatures, permissions.  Status 1 if anything is wrong."""
    from certs.inspect import check_folder

    found = check_folder(folder, _now())
    if as_json:
        rows = [
            {
                "file": str(one.file),
                "subject": one.subject,
                "expires_at": one.expires_at.isoformat(),
                "days_left": one.days_left,
                "faults": one.faults,
                "warnings": one.warnings,
            }
            for one in found
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for one in found:
            state = "wrong" if one.faults else "soon" if one.warnings else "good"
            click.echo(
                f"{state:<6}{one.expires_at:%Y-%m-%d}  {one.days_left:>5} days  "
                f"{one.file.relative_to(folder)}  {one.subject}"
            )
            for text in (*one.faults, *one.warnings):
                click.echo(f"      {text}")
    return 1 if any(one.faults for one in found) else 0
