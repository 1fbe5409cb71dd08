"""The `gridmsg` command: finds the module of each command when it is called.

Commands of agents live in `agents.cli`, loaded by name.  Tests: tests/unit/broker/cli/.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final, final

import click

from broker.cli.base import Failure
from broker.cli.supervised import end_with_supervisor
from broker.errors import ConfigError

COMMANDS: Final = {
    "up": "broker.cli.site:up",
    "broker": "broker.cli.site:broker",
    "status": "broker.cli.site:status",
    "queue": "broker.cli.topology:queue",
    "exchange": "broker.cli.topology:exchange",
    "binding": "broker.cli.topology:binding",
    "connection": "broker.cli.connections:connection",
    "link": "broker.cli.links:link",
    "deadletter": "broker.cli.letters:deadletter",
    "user": "broker.cli.access:user",
    "permission": "broker.cli.access:permission",
    "vhost": "broker.cli.access:vhost",
    "certs": "certs.cli:certs",
    "store": "broker.cli.stores:store",
    "collector": "agents.cli:collector",
    "database": "agents.cli:database",
    "summary": "agents.cli:summary",
    "replay": "agents.cli:replay",
    "record": "agents.cli_records:record",
    "bench": "bench.cli:bench",
    "lab": "bench.lab.cli:lab",
    "completion": "broker.cli.shell:completion",
}
"""Each command and where it is; a module is loaded only when its command is wanted."""


@final
class _Commands(click.Group):
    """The top-level commands, loaded by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        try:
            found: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name not in (module, module.partition(".")[0]):
                raise
            return None
        return found


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"gridmsg {version('gridmsg')}")
    ctx.exit()


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
def gridmsg() -> None:
    """Run a message broker (STOMP, AMQP 0-9-1) and the agents of a grid accounting site.

    `gridmsg up` starts everything on defaults.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage."""
    end_with_supervisor()
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        result: Any = gridmsg.main(arguments, prog_name="gridmsg", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(
            "gridmsg: interrupted, nothing more was done (--yes answers questions)", err=True
        )
        return 1
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say, nor to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Failure, ConfigError) as error:
        click.echo(f"gridmsg: {error}", err=True)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"gridmsg: {where}{error.strerror or error}", err=True)
        return 1
    return result if isinstance(result, int) else 0
