"""The small programs of tests/interop/clients: built once for all tests of a run, and run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

CLIENTS: Final = Path(__file__).resolve().parents[1] / "interop" / "clients"
BUILD_SECONDS: Final = 600
RUN_SECONDS: Final = 300
NPM: Final = ["npm", "install", "--no-audit", "--no-fund"]
BUILDS: Final[dict[str, tuple[list[str], list[str]]]] = {
    "go": (["go", "build", "-o", "amqpclient", "."], ["./amqpclient"]),
    "gostomp": (["go", "build", "-o", "gostomp", "."], ["./gostomp"]),
    "node": (NPM, ["node", "main.js"]),
    "stompjs": (NPM, ["node", "main.mjs"]),
    "rust": (["cargo", "build", "--release", "--quiet"], ["target/release/amqpclient"]),
    "java": (
        ["mvn", "-q", "-B", "package", "dependency:copy-dependencies"],
        ["java", "-cp", "target/classes:target/dependency/*", "AmqpClient"],
    ),
    "perl": (["perl", "-MNet::Stomp", "-e1"], ["perl", "main.pl"]),
}
"""How to build, and how to run; the place to connect to comes last."""

_built: dict[str, Path | str] = {}


def built(language: str, factory: pytest.TempPathFactory) -> Path:
    """The folder with the built program; skips by name where the toolchain or its registry is missing."""
    found = _built.get(language)
    if found is None:
        found = _built[language] = _build(language, factory)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def _build(language: str, factory: pytest.TempPathFactory) -> Path | str:
    command = BUILDS[language][0]
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed: the client {language} cannot be built"
    folder = factory.mktemp("client") / language
    shutil.copytree(CLIENTS / language, folder)
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            command, cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{' '.join(command)} is not done after {BUILD_SECONDS} s on this machine"
    if done.returncode:
        if language == "perl":
            return "Net::Stomp is not installed: apt-get install libnet-stomp-perl"
        return f"{' '.join(command)} failed, is its registry there? {done.stderr[-500:]}"
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the built program to its end."""
    return subprocess.run(  # noqa: S603
        [*BUILDS[folder.name][1], *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
