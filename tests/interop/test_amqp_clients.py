"""AMQP clients of other languages against a real broker process; skipped by name where the toolchain or its registry is missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import Site

pytestmark = pytest.mark.interop

CLIENTS = Path(__file__).parent / "clients"
BUILD_SECONDS = 600
RUN_SECONDS = 120
BUILDS: dict[str, tuple[str, list[list[str]], list[str]]] = {
    "go": ("go", [["go", "build", "-o", "amqpclient", "."]], ["./amqpclient"]),
    "node": ("npm", [["npm", "install", "--no-audit", "--no-fund"]], ["node", "main.js"]),
    "rust": (
        "cargo",
        [["cargo", "build", "--release", "--quiet"]],
        ["target/release/amqpclient"],
    ),
    "java": (
        "mvn",
        [["mvn", "-q", "-B", "package", "dependency:copy-dependencies"]],
        ["java", "-cp", "target/classes:target/dependency/*", "AmqpClient"],
    ),
}
"""Toolchain to look for, how to build, how to run; the URL comes last."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("clients"))
    try:
        made.start_broker()
        made.wait_for_port(5672)
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("language", BUILDS)
def test_a_client_of_another_language(language: str, site: Site, tmp_path: Path) -> None:
    tool, builds, run = BUILDS[language]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: the {language} client cannot be built")
    folder = tmp_path / language
    shutil.copytree(CLIENTS / language, folder)
    for build in builds:
        built = subprocess.run(  # noqa: S603 - our own commands
            build, cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if built.returncode:
            pytest.skip(f"{' '.join(build)} failed, is its registry there? {built.stderr[-500:]}")
    done = subprocess.run(  # noqa: S603
        [*run, f"amqp://guest:guest@127.0.0.1:{site.port(5672)}/%2F"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("done")
