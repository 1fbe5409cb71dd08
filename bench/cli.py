"""`gridmsg bench`: measurements that can be repeated; each prints its figures and judges nothing.

A measurement is a module of this package with a click command; LOADS is where it is registered.
Tests: tests/unit/bench/test_accounting.py.
"""

from __future__ import annotations

import importlib
from typing import Final, final

import click

LOADS: Final = {
    "accounting": "bench.accounting:accounting",
    "connections": "bench.connections:connections",
    "recovery": "bench.recovery:recovery",
}
"""Each measurement and where it is."""


@final
class _Loads(click.Group):
    """The measurements, loaded by name; without one, all are run in turn."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(LOADS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = LOADS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found


@click.group(cls=_Loads, invoke_without_command=True)
@click.pass_context
def bench(context: click.Context) -> None:
    """Measurements; without a name, all of them."""
    if context.invoked_subcommand is not None:
        return
    for name in LOADS:
        command = _Loads(name="bench").get_command(context, name)
        assert command is not None, "it is in the table"
        context.invoke(command)
