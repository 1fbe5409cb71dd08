"""Write the reference pages from the code: `make docs`.  A house test holds them to what this writes.

docs/commands.md is written whole; docs/configuration.md keeps its prose, and gets the tables between its markers.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

import click
import msgspec

from agents import config as agents_config
from broker.cli import gridmsg
from broker.sections import SECTIONS as BROKER_SECTIONS
from broker.setting_types import Key, declared_keys
from tests.support.source import ROOT

COMMANDS = ROOT / "docs" / "commands.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
BEGIN, END = "<!-- written by `make docs`: begin -->", "<!-- written by `make docs`: end -->"

AGENT_SECTIONS = {
    "collector": agents_config.CollectorSettings,
    "database": agents_config.DatabaseSettings,
    "summary": agents_config.SummarySettings,
    "replay": agents_config.ReplaySettings,
}
ROWS = ("listener", "address", "route", "database")
ENVIRONMENT = ("GRIDMSG_DATA", "GRIDMSG_CONFIG", "GRIDMSG_PORT_OFFSET")


def commands(
    command: click.Command | None = None, path: tuple[str, ...] = ("gridmsg",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that can be called, with its words."""
    command = command or gridmsg
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        if below is not None:
            yield from commands(below, (*path, name))


def command_page() -> str:
    """The text of docs/commands.md."""
    lines = [
        "# Commands",
        "",
        "Written by `make docs` from the commands themselves; do not edit.  Exit status: 0 done, 1 failed (one line on",
        "stderr that says what to do), 2 wrong usage.  `--json` output is stable.",
        "",
        "Options that many commands share: `--data DIR` (or `GRIDMSG_DATA`), `--config FILE` (`GRIDMSG_CONFIG`),",
        "`--port-offset N` (`GRIDMSG_PORT_OFFSET`); those that ask a running broker also take `--url`, `--login` and",
        "`--password` (`GRIDMSG_URL`, `GRIDMSG_LOGIN`, `GRIDMSG_PASSWORD`), for `guest` on this machine by default.",
        "",
    ]
    shared = {"data", "config", "port_offset", "url", "login", "password"}
    for path, command in commands():
        lines += [f"## `{' '.join(path)}`", "", _paragraphs(command.help or ""), ""]
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        options = [p for p in command.params if isinstance(p, click.Option)]
        takes = [p for p in options if p.name not in shared]
        if arguments:
            shown = " ".join(_argument(one) for one in arguments)
            lines += [f"Arguments: `{shown}`", ""]
        lines += [f"- {_option(one)}" for one in takes]
        if takes:
            lines.append("")
        if any(p.name == "url" for p in options):
            lines += ["Asks a running broker.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _argument(one: click.Argument) -> str:
    name = one.metavar or (one.name or "").upper()
    return name if one.required else f"[{name}]"


def _option(one: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    choices = f" ({', '.join(one.type.choices)})" if isinstance(one.type, click.Choice) else ""
    needed = " Required." if one.required else ""
    return f"{names}{choices}: {one.help or 'see above'}{needed}".replace(": see above", "")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def section_tables() -> str:
    """The tables of docs/configuration.md."""
    lines: list[str] = []
    sections = {**BROKER_SECTIONS, **AGENT_SECTIONS}
    for name, kind in sections.items():
        title = f"[[{name}]]" if name in ROWS else f"[{name}]"
        lines += [
            f"### `{title}`",
            "",
            _first_line(kind),
            "",
            "| key | takes | default | what it is |",
        ]
        lines.append("|---|---|---|---|")
        helps = dict(_docstrings(kind))
        for key in declared_keys(kind):
            lines.append(_row(key, helps))
        lines.append("")
    return "\n".join(lines).rstrip()


def _row(key: Key, helps: dict[str, str]) -> str:
    text = key.help or helps.get(key.name, "")
    cells = (f"`{key.name}`", key.allowed, f"`{key.default}`", text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _first_line(kind: type[msgspec.Struct]) -> str:
    text = inspect.getdoc(kind) or ""
    return re.sub(r"^`\[[^`]*`: (.)", lambda found: found[1].upper(), text.split("\n\n")[0])


def _docstrings(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Help of keys whose declaration is followed by a text, nested tables included."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    hints = inspect.get_annotations(kind, eval_str=True)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = prefix + node.target.id.replace("_", "-")
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield name, " ".join(str(after.value.value).split())
        for inner in [
            hints.get(node.target.id),
            *getattr(hints.get(node.target.id), "__args__", ()),
        ]:
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                yield from _docstrings(inner, name + ".")


def configuration_page(present: str) -> str:
    """The page with its tables written anew."""
    before, begin, rest = present.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{CONFIGURATION} has lost its markers"
    return f"{before}{BEGIN}\n\n{section_tables()}\n\n{END}{after}"


def main() -> None:
    """Write both pages."""
    COMMANDS.write_text(command_page())
    CONFIGURATION.write_text(configuration_page(CONFIGURATION.read_text()))


if __name__ == "__main__":
    main()
