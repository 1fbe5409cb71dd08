"""The prose says what the code does: every command, key and metric is there, and what prose names exists."""

from __future__ import annotations

import functools
import re
import shlex

import click
import pytest

from broker.management import metrics
from broker.metrics import Metrics
from tests.support import reference
from tests.support.source import ROOT, markdown_files, python_files, relative

BACKTICKED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SHELL_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
COMMANDS = dict(reference.commands())


def test_the_command_page_is_what_make_docs_writes():
    assert reference.COMMANDS.read_text() == reference.command_page(), "run `make docs`"


def test_the_configuration_tables_are_what_make_docs_writes():
    present = reference.CONFIGURATION.read_text()
    assert present == reference.configuration_page(present), "run `make docs`"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_help(path):
    command = COMMANDS[path]
    assert command.help
    bare = [
        one.opts[0]
        for one in command.params
        if isinstance(one, click.Option) and not one.help and not isinstance(one.type, click.Choice)
    ]
    assert set(bare) <= {"--count"}, f"options without help: {bare}"


def test_every_metric_is_documented():
    page = (ROOT / "docs" / "operating.md").read_text()
    names = [*metrics.GAUGES, *(metrics.counter_name(slot) for slot in Metrics().as_dict())]
    assert [name for name in names if f"`{name}`" not in page] == []


def command_of(words: list[str]) -> tuple[click.Command, list[str]] | None:
    """The command that words name, with the words that follow it."""
    for end in range(len(words), 0, -1):
        if tuple(words[:end]) in COMMANDS:
            return COMMANDS[tuple(words[:end])], words[end:]
    return None


def objection(line: str) -> str | None:
    """What is wrong with a `gridmsg …` line of the docs, or None."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return "cannot be split as a shell would"
    words[0] = "gridmsg"
    if len(words) == 1 or words[1] in ("--help", "--version", "…"):
        return None
    found = command_of(words)
    if found is None:
        is_group = any(path[: len(words)] == tuple(words) for path in COMMANDS)
        return None if is_group else "no such command"
    command, rest = found
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    for word in rest:
        if word in ("|", ">", "&&", "&", ";"):
            break
        option = word.split("=")[0]
        if option.startswith("--") and option not in known and option != "--help":
            return f"{option} is no option of it"
    return None


@pytest.mark.parametrize("path", markdown_files(), ids=relative)
def test_commands_in_shell_blocks_exist(path):
    wrong = []
    for block in SHELL_BLOCK.findall(path.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.strip().removeprefix("$ ")
            if re.match(r"(\.venv/bin/)?gridmsg\b", text) and (why := objection(text)):
                wrong.append(f"{text}: {why}")
            if text.startswith("make ") and text.split()[1] not in make_targets():
                wrong.append(f"{text}: no such target")
    assert not wrong, "\n".join(wrong)


@functools.cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def all_source() -> str:
    files = [*python_files(), *python_files("tests"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    counters = " ".join(metrics.counter_name(slot) for slot in Metrics().as_dict())
    return "\n".join([counters, *(path.read_text() for path in files)])


@pytest.mark.parametrize("path", markdown_files(), ids=relative)
def test_backticked_names_exist(path):
    if path.name == "CHANGELOG.md":
        return  # tells of what was
    wrong = []
    for name in BACKTICKED.findall(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        if name.startswith("gridmsg ") and (why := objection(name)):
            wrong.append(f"`{name}`: {why}")
        elif (
            re.fullmatch(r"make [a-z]+( [A-Z]+=\S+)*", name)
            and name.split()[1] not in make_targets()
        ):
            wrong.append(f"`{name}`: no such target")
        elif re.fullmatch(r"(broker|agents|store|certs|bench|tests|docs)/[\w./-]*", name):
            if not (ROOT / name).exists() and not name.startswith(("store/0", "broker/0")):
                wrong.append(f"`{name}`: no such file")
        elif (
            re.fullmatch(r"[A-Za-z_]\w*_\w+|[A-Z][a-z]+[A-Z]\w*", name) and name not in all_source()
        ):
            wrong.append(f"`{name}`: not in the code")
    assert not wrong, f"{relative(path)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "is_wrong"),
    [
        ("gridmsg queue list --json", False),
        ("gridmsg queue lst", True),
        ("gridmsg queue list --jsn", True),
        ("gridmsg queue", False),
        ("gridmsg teleport", True),
        ("gridmsg record count | wc --lines", False),
    ],
)
def test_the_command_check_objects(line, is_wrong):
    assert (objection(line) is not None) is is_wrong
