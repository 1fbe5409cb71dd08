"""Rules taken out of a copy of the source, one at a time, to see whether a test notices.

A place that is not there exactly once fails: then the table that names it is to be brought up to date.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.site import ROOT


@dataclass(frozen=True)
class Off:
    """A rule, where it is, what stands there without it, and who must notice: a file of tests and words of their names."""

    name: str
    path: str
    rule: str
    without: str
    noticed_by: tuple[str, str]


def copied(made: Path, parts: tuple[str, ...]) -> Path:
    """A copy of these folders, in which tests can run."""
    for one in parts:
        shutil.copytree(ROOT / one, made / one, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", made)
    return made


def run(
    tree: Path, noticed_by: tuple[str, str], environment: Mapping[str, str], *words: str
) -> subprocess.CompletedProcess[str]:
    """Run the tests that must notice, on the copy."""
    path, names = noticed_by
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:randomly"]
    return subprocess.run(  # noqa: S603
        [*command, "-p", "no:cacheprovider", path, "-k", names, *words],
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def check_noticed(tree: Path, off: Off, environment: Mapping[str, str], *words: str) -> None:
    """Take the rule out of the copy, see the tests fail, and put it back."""
    path = tree / off.path
    source = path.read_text()
    assert source.count(off.rule) == 1, f"{off.path} has changed: {off.rule!r}"
    path.write_text(source.replace(off.rule, off.without))
    try:
        done = run(tree, off.noticed_by, environment, *words)
    finally:
        path.write_text(source)
    assert done.returncode == 1, f"nobody noticed: {done.stdout[-1500:]}{done.stderr[-500:]}"
    print(f"{off.name}: {told(done.stdout)}")


def told(output: str) -> str:
    """The line that says what failed."""
    lines = [line for line in output.splitlines() if line.startswith(("E  ", "FAILED"))]
    return lines[0][:150] if lines else output[-150:]
