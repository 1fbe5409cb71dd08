"""A blocking STOMP client for measurements: frames made ahead, thousands in one write.

It costs far less than the broker that it feeds, and checks every answer.  Tests: tests/unit/bench/test_feeder.py.
"""

from __future__ import annotations

import socket
from typing import Final, final

import click

READ_BYTES: Final = 1 << 16
FRAMES_MAX: Final = 500
"""Frames sent by one write, and receipts asked for by one."""
WINDOW: Final = 8
"""Receipts that may be outstanding."""


def encode_send(queue: str, body: bytes, receipt: str = "", extra: str = "") -> bytes:
    """Give the bytes of a persistent SEND to a queue."""
    head = f"SEND\ndestination:/queue/{queue}\npersistent:true\ncontent-length:{len(body)}\n{extra}"
    if receipt:
        head += f"receipt:{receipt}\n"
    return head.encode() + b"\n" + body + b"\0"


@final
class Feeder:
    """One connection to a broker on this machine."""

    def __init__(self, port: int, timeout_seconds: float = 120.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.send(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")
        self.expect("CONNECTED")

    def send(self, raw: bytes) -> None:
        """Write all of it."""
        self._socket.sendall(raw)

    def frame(self) -> tuple[str, dict[str, str], bytes]:
        """Read one frame: command, headers, body.  Raises ClickException when the broker hangs up."""
        while True:
            self._rest = self._rest.lstrip(b"\n")
            head, separator, rest = self._rest.partition(b"\n\n")
            if separator:
                command, _, lines = head.decode().partition("\n")
                headers = dict(line.split(":", 1) for line in lines.split("\n") if line)
                length = int(headers.get("content-length", "-1"))
                if length < 0:
                    length = rest.find(b"\0")
                if 0 <= length < len(rest):
                    self._rest = rest[length + 1 :]
                    return command, headers, rest[:length]
            part = self._socket.recv(READ_BYTES)
            if not part:
                raise click.ClickException("the broker closed the connection")
            self._rest += part

    def expect(self, command: str) -> tuple[dict[str, str], bytes]:
        """Read one frame, which must be of this command."""
        found, headers, body = self.frame()
        if found != command:
            raise click.ClickException(
                f"{command} expected, the broker sent {found}: {headers.get('message', '')}"
            )
        return headers, body

    def publish(self, queues: list[str], count: int, body: bytes) -> None:
        """Publish persistent messages round about to the queues; returns when all are confirmed."""
        outstanding = 0
        sent = 0
        frames = [encode_send(queue, body) for queue in queues]
        while sent < count:
            part = min(FRAMES_MAX, count - sent)
            if len(frames) == 1:
                batch = frames[0] * (part - 1)
            else:
                batch = b"".join([frames[(sent + i) % len(frames)] for i in range(part - 1)])
            last = queues[(sent + part - 1) % len(queues)]
            self.send(batch + encode_send(last, body, f"r{sent}"))
            sent += part
            outstanding += 1
            if outstanding >= WINDOW:
                self.expect("RECEIPT")
                outstanding -= 1
        for _ in range(outstanding):
            self.expect("RECEIPT")

    def subscribe(self, queue: str, prefetch_count: int = 0) -> None:
        """Consume a queue, each message to be acknowledged on its own."""
        # RabbitMQ's word for it and ours, then ActiveMQ's.
        words = ("prefetch-count", "activemq.prefetchSize") if prefetch_count else ()
        prefetch = "".join([f"{word}:{prefetch_count}\n" for word in words])
        head = (
            f"SUBSCRIBE\nid:{queue}\ndestination:/queue/{queue}\nack:client-individual\n{prefetch}"
        )
        self.send(f"{head}\n\0".encode())

    def drain(self, count: int) -> None:
        """Take and acknowledge that many messages."""
        acknowledgements = []
        for index in range(count):
            headers, _ = self.expect("MESSAGE")
            acknowledgements.append(f"ACK\nid:{headers['ack']}\n\n\0".encode())
            if len(acknowledgements) == FRAMES_MAX or index == count - 1:
                self.send(b"".join(acknowledgements))
                acknowledgements.clear()

    def close(self) -> None:
        """Hang up without a word."""
        self._socket.close()
