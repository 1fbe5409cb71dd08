"""STOMP clients of other languages against a real broker process; skipped by name where the toolchain or its registry is missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import Site

pytestmark = pytest.mark.interop

CLIENTS = Path(__file__).parent / "clients"
BUILD_SECONDS = 300
RUN_SECONDS = 60


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("stomp-clients"))
    try:
        made.start_broker()
        made.wait_for_port(61613)
        yield made
    finally:
        made.close()


def build(language: str, folder: Path, *command: str) -> Path:
    """A copy of the client, built; skips what cannot be."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: the client {language} cannot be built")
    made = folder / language
    shutil.copytree(CLIENTS / language, made)
    done = subprocess.run(
        command, cwd=made, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if done.returncode:
        pytest.skip(f"{' '.join(command)} failed, is its registry there? {done.stderr[-500:]}")
    return made


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_stompjs_over_websocket(site: Site, tmp_path: Path) -> None:
    folder = build("stompjs", tmp_path, "npm", "install", "--no-audit", "--no-fund")
    said = run(folder, "node", "main.mjs", f"ws://127.0.0.1:{site.port(15674)}/ws")
    assert said.startswith("ok ")


def test_go_stomp(site: Site, tmp_path: Path) -> None:
    folder = build("gostomp", tmp_path, "go", "build", "-o", "gostomp", ".")
    assert "done" in run(folder, "./gostomp", f"127.0.0.1:{site.port(61613)}")


def test_net_stomp(site: Site, tmp_path: Path) -> None:
    if shutil.which("perl") is None:
        pytest.skip("perl is not installed")
    known = subprocess.run(["perl", "-MNet::Stomp", "-e1"], capture_output=True, check=False)
    if known.returncode:
        pytest.skip("Net::Stomp is not installed: apt-get install libnet-stomp-perl")
    said = run(CLIENTS / "perl", "perl", "main.pl", "127.0.0.1", str(site.port(61613)))
    assert "done" in said
