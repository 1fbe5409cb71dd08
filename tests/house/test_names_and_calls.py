"""Words that say nothing, calls that have a better place, and sizes."""

from __future__ import annotations

import ast
import re
import warnings

import pytest

from tests.support.source import PACKAGES, module_name, python_files, relative, tree

BANNED_ENDINGS = frozenset(
    "manager handler processor engine component helper helpers util utils common misc".split()
)
BANNED_WHOLE = BANNED_ENDINGS | {"data", "info"}
FILES = python_files()
PURE = ("broker.core", "broker.wire", "broker.session", "broker.link", "broker.standby")

FUNCTION_LINES, CLASS_LINES, MODULE_LINES = 70, 400, 600
BEYOND = 1.6
"""A size over its signal is listed as a warning; over the signal times this it fails."""


def words(name: str) -> list[str]:
    return [one.lower() for one in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def is_banned(name: str) -> bool:
    found = words(name)
    return bool(found) and (found[-1] in BANNED_ENDINGS or "".join(found) in BANNED_WHOLE)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("QueueManager", True),
        ("data", True),
        ("data_folder", False),
        ("utils", True),
        ("receive_data", False),
    ],
)
def test_the_word_rule(name, verdict):
    assert is_banned(name) is verdict


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_names_say_something(path):
    wrong = []
    if is_banned(path.stem):
        wrong.append(f"{relative(path)}: the module's name says only that it does something")
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and is_banned(
            node.name
        ):
            wrong.append(f"{relative(path)}:{node.lineno}: {node.name}: name what it is or does")
    assert not wrong, "\n".join(wrong)


CALLS = (
    # call, modules where it is banned, modules where it is right, what to use
    ("time.time", PURE + ("store",), (), "the Clock that is handed in"),
    ("time.monotonic", PURE + ("store",), (), "the Clock that is handed in"),
    ("time.sleep", PURE + ("store", "broker.net", "broker.management"), (), "a deadline (tick)"),
    ("open", PURE + ("store",), ("store.files",), "store.files (FileSystem)"),
    ("os.fsync", PURE + ("store",), ("store.files",), "store.files (FileSystem)"),
    ("os.rename", PURE + ("store",), ("store.files",), "store.files (FileSystem)"),
    (
        "print",
        ("broker", "store", "agents"),
        ("broker.cli", "broker.up", "broker.server"),
        "a log, or broker.cli.base.say",
    ),
    ("eval", PACKAGES, (), "nothing"),
    ("exec", PACKAGES, (), "nothing"),
    ("pickle.loads", PACKAGES, (), "msgpack or JSON"),
)


def is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == one or module.startswith(one + ".") for one in places)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_banned_calls(path):
    module = module_name(path)
    wrong = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            wrong.append(f"{relative(path)}:{node.lineno}: bare except: name what is expected")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        for call, banned, right, instead in CALLS:
            if called == call and is_in(module, banned) and not is_in(module, right):
                wrong.append(f"{relative(path)}:{node.lineno}: {call}: use {instead}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES + python_files("tests"), ids=relative)
def test_todos_name_an_issue(path):
    # Put together here, so that this file does not object to itself.
    wrong = [
        f"{relative(path)}:{number}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(FIX" + r"ME|XX" + r"X|HA" + r"CK)\b", line)
        or re.search(r"\bTO" + r"DO(?!\(\d+\):)", line)
    ]
    assert not wrong, "write TO" + "DO(issue): …\n" + "\n".join(wrong)


POLL_SECONDS = 0.01


@pytest.mark.parametrize("path", python_files("tests/unit"), ids=relative)
def test_unit_tests_do_not_sleep(path):
    """But for a short pause in a loop that polls a real thread."""
    polls = {
        id(inner)
        for loop in ast.walk(tree(path))
        if isinstance(loop, ast.While)
        for inner in ast.walk(loop)
        if isinstance(inner, ast.Call)
        and inner.args
        and isinstance(inner.args[0], ast.Constant)
        and inner.args[0].value <= POLL_SECONDS
    }
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("time.sleep", "sleep")
        and id(node) not in polls
    ]
    assert not wrong, "a fake clock instead of sleeping:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "path",
    python_files("tests/unit", "tests/property", "tests/interop", "tests/e2e", "tests/crash"),
    ids=relative,
)
def test_tests_wait_in_one_way(path):
    """Deadlines of their own are too short somewhere."""
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Add)
        and ast.unparse(node.left) == "time.monotonic()"
    ]
    assert not wrong, "wait_until of tests/support/waiting.py instead:\n" + "\n".join(wrong)


def sizes():
    """(what, lines, signal) of every module, class and function."""
    for path in FILES:
        name = relative(path)
        if name.endswith("methods.py"):
            continue  # a table
        yield name, len(path.read_text().splitlines()), MODULE_LINES
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                signal = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
                yield f"{name}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1, signal


def test_sizes():
    over = [(what, lines, signal) for what, lines, signal in sizes() if lines > signal]
    for what, lines, signal in over:
        warnings.warn(f"{what}: {lines} lines, signal {signal}", stacklevel=1)
    far_over = [
        f"{what}: {lines} lines, signal {signal}"
        for what, lines, signal in over
        if lines > signal * BEYOND
    ]
    assert not far_over, "\n".join(far_over)


def test_module_headers():
    wrong = [
        relative(path)
        for path in FILES
        if path.read_text().strip() and not ast.get_docstring(tree(path))
    ]
    assert not wrong, f"no header that says what the module is: {wrong}"
