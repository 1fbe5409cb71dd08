"""The five top-level names are ours: in the build, in the environment, and nobody else's."""

from __future__ import annotations

import importlib
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.source import PACKAGES, ROOT


def test_the_wheel_holds_the_five_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    assert project["project"]["scripts"] == {"gridmsg": "broker.cli:main"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_comes_from_this_checkout(package):
    module = importlib.import_module(package)
    assert Path(module.__file__).resolve().parent == ROOT / package


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_the_name(package):
    owners = set(packages_distributions().get(package, ()))
    assert owners <= {"gridmsg"}, owners


def test_tests_do_not_shadow_libraries():
    for shadowed in ("stomp", "amqp", "twisted"):
        assert not list((ROOT / "tests").glob(f"{shadowed}/__init__.py"))
    assert not list((ROOT / "tests").rglob("__init__.py"))
