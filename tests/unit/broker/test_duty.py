"""What a standby has ready before it is needed."""

import ast
from pathlib import Path

import pytest

import broker.server
from broker.config import DEFAULT_PORTS
from broker.duty import SERVING_MODULES

LATER = {"broker.net.tls"}
"""Imported before listening, where the configuration wants it."""


def imported_in_functions(path: Path) -> set[str]:
    found = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            found |= {n.module for n in ast.walk(function) if isinstance(n, ast.ImportFrom)}
    return found


def test_a_standby_imports_all_that_the_server_imports_late():
    wanted = imported_in_functions(Path(broker.server.__file__)) - LATER
    wanted = {name for name in wanted if name.split(".")[1] in ("session", "net", "management")}
    assert wanted == {name for names in SERVING_MODULES.values() for name in names}


@pytest.mark.parametrize("protocol", DEFAULT_PORTS)
def test_each_protocol_has_its_modules(protocol):
    assert SERVING_MODULES[protocol]
