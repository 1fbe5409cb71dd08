"""`gridmsg completion`: shell completion, printed or installed.

Tests: tests/unit/broker/cli/test_shell.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from broker.cli.base import Failure, say

SHELLS = ("bash", "zsh", "fish")
START = {"bash": "~/.bashrc", "zsh": "~/.zshrc"}
FISH_FILE = "~/.config/fish/completions/gridmsg.fish"


@click.group()
def completion() -> None:
    """Shell completion for this command."""


@completion.command(name="show")
@click.argument("shell", type=click.Choice(SHELLS))
def completion_show(shell: str) -> None:
    """Print the completion script of a shell."""
    say(script(shell))


@completion.command(name="install")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion_install(shell: str | None) -> None:
    """Have new shells complete `gridmsg`; adds to the shell's start file once."""
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise Failure(f"the shell is not known: name one of {', '.join(SHELLS)}")
    if name == "fish":
        target = Path(FISH_FILE).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(script(name) + "\n")
        say(f"wrote {target}")
        return
    target = Path(START[name]).expanduser()
    line = f'eval "$(_GRIDMSG_COMPLETE={name}_source gridmsg)"'
    present = target.read_text() if target.exists() else ""
    if line in present:
        say(f"{target} has it already")
        return
    with target.open("a") as stream:
        stream.write(f"\n# completion of gridmsg\n{line}\n")
    say(f"added to {target}; open a new shell")


def script(shell: str) -> str:
    """The completion script of a shell."""
    from click.shell_completion import get_completion_class

    from broker.cli import gridmsg

    found = get_completion_class(shell)
    assert found is not None, "click knows the three shells"
    return found(gridmsg, {}, "gridmsg", "_GRIDMSG_COMPLETE").source()
