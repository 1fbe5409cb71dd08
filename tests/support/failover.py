"""Two real brokers on one store, a publisher that accounts for each confirm, and a look at what is left.

The publisher speaks STOMP over plain sockets, goes through the brokers' addresses like any client, and sends again what was not
confirmed; each message carries its number.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.ports import free_offset
from tests.support.site import ROOT
from tests.support.waiting import PATIENCE_SECONDS, wait_until

QUEUE = "/queue/failover"


class Node:
    """One broker process of the pair, started anew as needed."""

    def __init__(self, folder: Path, name: str, data: Path, config: str) -> None:
        self.name = name
        self.offset = free_offset()
        self.log = folder / f"{name}.log"
        self.data = data
        self.config = folder / f"{name}.toml"
        self.config.write_text(config)
        self.program = ["-m", "broker"]
        self.prefix: list[str] = []
        # At a file of this name and a kind (failover_faults.py) it hangs.
        self.trigger = ""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def stomp(self) -> int:
        return 61613 + self.offset

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(  # noqa: S603
                [*self.prefix, sys.executable, *self.program, "broker", "run"]
                + [
                    "--data",
                    str(self.data),
                    "--config",
                    str(self.config),
                    "--port-offset",
                    str(self.offset),
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def in_mounts(self, *words: str) -> None:
        """Run a command where the broker's mounts are."""
        assert self.process is not None
        enter = ["nsenter", "-t", str(self.process.pid), "-m"]
        subprocess.run([*enter, *words], check=True)  # noqa: S603

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def get(self, path: str, timeout_s: float = 10) -> tuple[int, str]:
        """Status and body that the management listener answers.  Raises OSError."""
        url = f"http://127.0.0.1:{15672 + self.offset}{path}"
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def health(self) -> dict[str, object]:
        """What /health/ready says; empty when nobody answers."""
        try:
            return json.loads(self.get("/health/ready", 1)[1])
        except OSError:
            return {}

    def status(self) -> str:
        """What `gridmsg status` prints, its complaint included."""
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "broker", "status", "--data", str(self.data)]
            + ["--config", str(self.config), "--port-offset", str(self.offset)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        return done.stdout + done.stderr

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.stomp), 1):
            return True
        return False


class Pair:
    """Two brokers on one store; `is_mounted`: each sees it by a mount of its own, which can be taken away."""

    def __init__(self, folder: Path, config: str, is_mounted: bool = False) -> None:
        self.data = folder / "shared"
        self.is_mounted = is_mounted
        # As a service manager would: who ended by itself is started again, where `roles` or `active` is waited for.
        self.is_kept = False
        self.restart_count = 0
        shared = self.data / "broker"
        shared.mkdir(parents=True)
        self.nodes = []
        for name in ("a", "b"):
            data = folder / name if is_mounted else self.data
            node = Node(folder, name, data, config)
            if is_mounted:
                (data / "broker").mkdir(parents=True)
                script = 'mount --bind "$0" "$1" && shift && exec "$@"'
                node.prefix = ["unshare", "-m", "sh", "-c", script, str(shared)]
                node.prefix += [str(data / "broker")]
            self.nodes.append(node)

    def start(self) -> None:
        """Start one, wait until it is active, start the other, wait until it stands by."""
        self.nodes[0].start()
        self.active()
        self.nodes[1].start()
        self.wait_for_role(self.nodes[1], "standby")

    def _keep(self, besides: Node | None) -> None:
        for node in self.nodes:
            if self.is_kept and node is not besides and not node.is_alive():
                self.restart_count += 1
                node.start()

    def roles(self, timeout_s: float = PATIENCE_SECONDS) -> tuple[Node, Node]:
        """Wait until one is active and the other its standby; returns both."""

        def found() -> tuple[Node, Node] | None:
            self._keep(None)
            roles = [node.health().get("role") for node in self.nodes]
            if sorted(map(str, roles)) != ["active", "standby"]:
                return None
            at = roles.index("active")
            return self.nodes[at], self.nodes[1 - at]

        both = wait_until(found, "an active and a standby", self, timeout_s=timeout_s, pause_s=0.02)
        assert both is not None
        return both

    def active(self, timeout_s: float = PATIENCE_SECONDS, besides: Node | None = None) -> Node:
        """Wait until one of them, or one besides another, is active."""

        def found() -> Node | None:
            self._keep(besides)
            for node in self.nodes:
                if node is besides:
                    continue
                if node.is_alive() and node.health().get("role") == "active":
                    return node
            return None

        node = wait_until(found, "an active one", self, timeout_s=timeout_s, pause_s=0.02)
        assert node is not None
        return node

    def other(self, node: Node) -> Node:
        return self.nodes[1 - self.nodes.index(node)]

    def wait_for_role(self, node: Node, role: str, timeout_s: float = PATIENCE_SECONDS) -> None:
        wait_until(
            lambda: node.health().get("role") == role,
            f"{node.name} is {role}",
            self,
            timeout_s=timeout_s,
            pause_s=0.02,
        )

    def lease_files(self) -> list[Path]:
        return sorted((self.data / "broker" / "lease").glob("epoch-*"))

    def logs(self) -> str:
        return "\n".join(
            f"--- {node.name}\n" + node.log.read_text(errors="replace")[-4000:]
            for node in self.nodes
            if node.log.exists()
        )

    def close(self) -> None:
        for node in self.nodes:
            if node.is_alive():
                node.send_signal(signal.SIGCONT)
                node.kill()


class Stomp:
    """A STOMP connection on a plain socket."""

    def __init__(self, port: int, timeout_s: float = 2.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.settimeout(timeout_s)
        self._rest = b""
        self.send(
            b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:0,0\n\n"
        )
        assert self.frame().startswith(b"CONNECTED")

    def send(self, frame: bytes) -> None:
        self.socket.sendall(frame + b"\0")

    def frame(self) -> bytes:
        """The next frame, without its end."""
        while b"\0" not in self._rest:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise ConnectionError("the broker closed the connection")
            self._rest += chunk
        frame, _, self._rest = self._rest.partition(b"\0")
        return frame.lstrip(b"\n")

    def close(self) -> None:
        self.socket.close()


class Publisher(threading.Thread):
    """Publishes numbered messages, `window` at a time, and notes which were confirmed, when, and by which port."""

    def __init__(self, ports: list[int], name: str, window: int = 20) -> None:
        super().__init__(daemon=True)
        self.ports = ports
        self.label = name
        self.window = window
        # number → when it was sent, when its confirm was read, and by which port it came.
        self.confirmed: dict[int, tuple[float, float, int]] = {}
        self.unconfirmed: set[int] = set()
        self.sent_again: set[int] = set()
        self.is_stopped = threading.Event()

    def run(self) -> None:
        at = number = 0
        while not self.is_stopped.is_set():
            port = self.ports[at % len(self.ports)]
            at += 1
            try:
                connection = Stomp(port)
            except (OSError, AssertionError):
                time.sleep(0.01)
                continue
            with contextlib.suppress(OSError), contextlib.closing(connection):
                number = self._publish(connection, port, number)

    def _publish(self, connection: Stomp, port: int, number: int) -> int:
        waiting: dict[int, float] = {}
        again = sorted(self.unconfirmed)
        self.sent_again.update(again)
        while not self.is_stopped.is_set():
            while len(waiting) < self.window:
                if again:
                    one = again.pop(0)
                else:
                    one = number
                    number += 1
                self.unconfirmed.add(one)
                waiting[one] = time.monotonic()
                body = b"%s:%d" % (self.label.encode(), one)
                try:
                    connection.send(
                        b"SEND\ndestination:%s\npersistent:true\nreceipt:%d\n\n%s"
                        % (QUEUE.encode(), one, body)
                    )
                except OSError:
                    return number
            try:
                frame = connection.frame()
            except OSError:
                return number
            if frame.startswith(b"RECEIPT\n"):
                one = int(frame.split(b"receipt-id:")[1].split(b"\n")[0])
                self.unconfirmed.discard(one)
                self.confirmed[one] = (waiting.pop(one), time.monotonic(), port)
        return number


def drain(port: int, quiet_s: float = 3.0) -> list[tuple[bytes, bool]]:
    """Take all messages: (body, whether it was marked redelivered).  One of our own, sent before, says where the end is."""
    connection = Stomp(port, timeout_s=PATIENCE_SECONDS)
    last = b"last-%d" % time.monotonic_ns()
    connection.send(
        b"SEND\ndestination:%s\npersistent:true\nreceipt:last\n\n%s" % (QUEUE.encode(), last)
    )
    while not connection.frame().startswith(b"RECEIPT"):
        pass
    connection.send(b"SUBSCRIBE\nid:1\ndestination:%s\nack:auto\n\n" % QUEUE.encode())
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            frame = connection.frame()
            head, _, body = frame.partition(b"\n\n")
            if body == last:
                # What others held may be queued again behind it.
                connection.socket.settimeout(quiet_s)
            elif frame.startswith(b"MESSAGE"):
                found.append((body, b"redelivered:true" in head))
    connection.close()
    return found


def fill(port: int, count: int, body: bytes) -> None:
    """Store so many messages; returns when all are confirmed."""
    connection = Stomp(port, timeout_s=PATIENCE_SECONDS)
    head = b"SEND\ndestination:%s\npersistent:true\n" % QUEUE.encode()
    for start in range(0, count, 1000):
        rows = min(1000, count - start)
        frames = (head + b"\n" + body + b"\0") * (rows - 1)
        connection.socket.sendall(frames + head + b"receipt:%d\n\n" % start + body + b"\0")
        while not connection.frame().startswith(b"RECEIPT"):
            pass
    connection.close()


def first_delivery_seconds(port: int, since: float, timeout_s: float = PATIENCE_SECONDS) -> float:
    """Seconds from `since` to the first message that a consumer gets at the port."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            connection = Stomp(port)
            connection.send(
                b"SUBSCRIBE\nid:1\ndestination:%s\nack:client\nprefetch-count:1\n\n"
                % QUEUE.encode()
            )
            while not connection.frame().startswith(b"MESSAGE"):
                pass
        except (OSError, AssertionError):
            time.sleep(0.005)
            continue
        found = time.monotonic() - since
        connection.close()
        return found
    raise AssertionError("no delivery")
