"""Suites of client libraries that come as packages, run against a fresh broker, plain or over TLS; none of their code is here.

    python -m tests.suites.packaged kombu celery --tls
    python -m tests.suites.packaged pika stomp.py --checkout pika=../pika --checkout stomp.py=../stomp.py

kombu and Celery are fetched from the package index; pika and stomp.py keep their tests in their repositories only, so a checkout is
named.  With --tls kombu and Celery speak TLS themselves, with a client certificate; pika and stomp.py, whose tests build their own
connections, go through a local relay that does.  Status 1 if anything failed.  What came out: docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.secure import SecureBroker
from tests.support.site import ROOT, Site

VERSIONS = {"kombu": "5.7.0", "celery": "5.7.0"}
REQUIREMENTS = [
    "kombu==5.7.0", "celery==5.7.0", "pytest", "pytest-rerunfailures", "pytest-timeout", "pytest-mock",
    "twisted", "tornado", "gevent", "docopt", "websocket-client",
]  # fmt: skip
STOMP_TESTS = ("basic", "s10", "s11", "s12", "ss", "threading", "context", "misc", "nonascii")
SUITE_SECONDS = 1800
TLS_OF_KOMBU = '''
"""Makes every kombu connection of a run speak TLS."""
import os, ssl, kombu
first = kombu.Connection.__init__
def second(self, *words, **named):
    named.setdefault("ssl", {
        "ca_certs": os.environ["CA"], "certfile": os.environ["CERTIFICATE"], "keyfile": os.environ["KEY"],
        "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "localhost"})
    first(self, *words, **named)
kombu.Connection.__init__ = second
'''


class Place:
    """A broker, and what a suite needs to reach it: plain ports of this machine, or TLS."""

    def __init__(self, amqp_port: int, stomp_port: int, environment: dict[str, str]) -> None:
        self.amqp_port = amqp_port
        self.stomp_port = stomp_port
        self.environment = environment
        """CA, CERTIFICATE and KEY, and TLS_PORT of AMQP; empty without TLS."""


@contextmanager
def place(folder: Path, is_tls: bool) -> Iterator[Place]:
    """A fresh broker; with TLS behind relays that speak it."""
    if not is_tls:
        site = Site(folder)
        try:
            site.start_broker()
            site.wait_for_port(5672)
            yield Place(site.port(5672), site.port(61613), {})
        finally:
            site.close()
        return
    broker = SecureBroker(folder)
    relay = Relay(broker.certificates.context("named"))
    try:
        made = broker.certificates.clients["named"]
        amqp, stomp = broker.secure_port("amqp"), broker.secure_port("stomp")
        environment = {
            "CA": str(broker.certificates.ca),
            "CERTIFICATE": str(made.certificate),
            "KEY": str(made.key),
            "TLS_PORT": str(amqp),
        }
        yield Place(relay.open(amqp), relay.open(stomp), environment)
    finally:
        relay.close()
        broker.close()


class Relay:
    """Listens on free ports of loopback, and passes on to others by TLS what comes."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self, port: int) -> int:
        """Relay a free port to this one."""

        async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, back = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=self._context, server_hostname="localhost"
                )
                await asyncio.gather(pass_on(reader, back), pass_on(there, writer))
            except (OSError, asyncio.IncompleteReadError):
                writer.close()

        async def listen() -> int:
            server = await asyncio.start_server(come, "127.0.0.1", 0)
            return int(server.sockets[0].getsockname()[1])

        return asyncio.run_coroutine_threadsafe(listen(), self._loop).result(30)

    def close(self) -> None:
        """Stop; what is open dies with the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, then close the other side: TLS has no half-closed connections."""
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Runner:
    """Runs suites with one environment of Python, in one folder."""

    def __init__(self, folder: Path, python: Path | None, checkouts: dict[str, Path]) -> None:
        self.folder = folder
        self.checkouts = checkouts
        self.python = python or self._make_environment()

    def _make_environment(self) -> Path:
        venv = self.folder / "venv"
        python = venv / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        return python

    def source(self, suite: str) -> Path | None:
        """A copy of a suite's sources, to be thrown away; None if it must be named."""
        copy = self.folder / f"{suite}-copy"
        shutil.rmtree(copy, ignore_errors=True)
        if suite in self.checkouts:
            shutil.copytree(self.checkouts[suite], copy, symlinks=True)
            return copy
        if suite not in VERSIONS:
            return None
        copy.mkdir()
        name = f"{suite}=={VERSIONS[suite]}"
        fetch = ["pip", "download", "-q", "--no-deps", "--no-binary", suite, "-d", copy, name]
        subprocess.run([self.python, "-m", *fetch], check=True)
        (archive,) = copy.glob("*.tar.gz")
        shutil.unpack_archive(archive, copy, filter="data")
        return next(one for one in copy.iterdir() if one.is_dir())

    def pytest(self, source: Path, environment: dict[str, str], *words: str) -> int:
        """Run tests, and print counts and what failed; returns how many did."""
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [
            self.python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            *words,
        ]
        path = os.pathsep.join([str(source), str(self.folder)])
        done = subprocess.run(
            command,
            cwd=source,
            env={**os.environ, **environment, "PYTHONPATH": path},
            timeout=SUITE_SECONDS,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        (self.folder / "output.txt").write_bytes(done.stdout)
        if not report.exists():
            say(done.stdout.decode(errors="replace")[-3000:])
            return 1
        return tell(report)

    def run(self, suite: str, there: Place) -> int:
        """Run one suite; returns how many tests failed, 0 also where it could not run."""
        if suite == "celery":
            return self._celery(there)
        source = self.source(suite)
        if source is None:
            say(f"{suite}: not run: its tests are in its repository only: --checkout {suite}=PATH")
            return 0
        if suite == "kombu":
            (self.folder / "tls_of_kombu.py").write_text(TLS_OF_KOMBU)
            port = there.environment.get("TLS_PORT", str(there.amqp_port))
            environment = {
                **there.environment,
                "RABBITMQ_HOST": "localhost",
                "RABBITMQ_5672_TCP": port,
            }
            plugin = ["-p", "tls_of_kombu"] if there.environment else []
            return self.pytest(source, environment, *plugin, "t/integration/test_py_amqp.py")
        if suite == "pika":
            for file in (source / "tests").rglob("*.py"):
                file.write_text(file.read_text().replace("5672", str(there.amqp_port)))
            return self.pytest(source, {}, "tests/acceptance")
        port = str(there.stomp_port)
        # Three tests go to port 61613 of this machine, or to an address that must not answer, whatever is said.
        environment = {
            "STD_HOST": "127.0.0.1",
            "STD_PORT": port,
            "STD_USER": "guest",
            "STD_PASSWORD": "guest",
            "RABBITMQ_HOST": "127.0.0.1",
            "RABBITMQ_PORT": port,
        }
        names = [f"tests/test_{name}.py" for name in STOMP_TESTS]
        return self.pytest(source, environment, *[one for one in names if (source / one).exists()])

    def _celery(self, there: Place) -> int:
        port = there.environment.get("TLS_PORT", str(there.amqp_port))
        environment = {
            **os.environ,
            **there.environment,
            "BROKER": f"pyamqp://guest:guest@localhost:{port}//",
            "PYTHONPATH": str(Path(__file__).parent),
        }
        worker = subprocess.Popen(
            [
                self.python,
                "-m",
                "celery",
                "-A",
                "celery_tasks",
                "worker",
                "-c",
                "2",
                "-l",
                "WARNING",
            ],
            cwd=self.folder,
            env=environment,
            stdout=(self.folder / "worker.txt").open("wb"),
            stderr=subprocess.STDOUT,
        )
        try:
            done = subprocess.run(
                [self.python, "-m", "celery_tasks"],
                cwd=self.folder,
                env=environment,
                timeout=SUITE_SECONDS,
                check=False,
                capture_output=True,
                text=True,
            )
        finally:
            worker.terminate()
            worker.wait(60)
        say(done.stdout + done.stderr[-2000:])
        return 1 if done.returncode else 0


def tell(report: Path) -> int:
    """Print the counts of a report and its failures; returns how many there are."""
    counts: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase"):
        found = next((one for one in case if one.tag in ("failure", "error", "skipped")), None)
        counts["passed" if found is None else found.tag] += 1
        if found is not None and found.tag != "skipped":
            say(f"  {case.get('classname')}.{case.get('name')}: {found.get('message', '')[:300]}")
    say("  " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return counts["failure"] + counts["error"]


def say(text: str) -> None:
    sys.stdout.write(text.rstrip() + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the suites that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="+", choices=["kombu", "celery", "pika", "stomp.py"])
    parser.add_argument("--tls", action="store_true", help="over TLS")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "suites")
    parser.add_argument("--python", type=Path, help="an environment that has all packages")
    parser.add_argument("--checkout", action="append", default=[], metavar="SUITE=PATH")
    asked = parser.parse_args()
    checkouts = {
        name: Path(path).resolve()
        for name, _, path in (one.partition("=") for one in asked.checkout)
    }
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(folder, asked.python, checkouts)
    failed = 0
    for suite in asked.suites:
        say(f"{suite}{' over TLS' if asked.tls else ''}")
        with tempfile.TemporaryDirectory() as data, place(Path(data), asked.tls) as there:
            failed += runner.run(suite, there)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
