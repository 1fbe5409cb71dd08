"""AMQP 0-9-1 frames: cutting a byte stream into commands, and putting content into frames.

A command is a method with, for basic.publish, its content.  Publishes that differ only in their bodies come as one run,
found by comparing bytes instead of parsing them.  Bytes held are bounded: one frame, and all unfinished contents together.
Knows neither sessions nor what a method means, but that basic.publish has content.
Tests: tests/unit/broker/wire/amqp/test_frames.py, tests/property/test_amqp_frames.py.
"""

from __future__ import annotations

from io import BytesIO
from struct import Struct
from typing import Final, final

from broker.errors import BrokerError, ProtocolViolation, ResourceLimit
from broker.wire.amqp.values import syntax_error

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
END: Final = b"\xce"
FRAME_OVERHEAD_BYTES: Final = 8
"""Type, channel, size and end octet."""
CONTENT_OVERHEAD_BYTES: Final = 20
"""What a content header frame has besides the property flags and list."""
FRAME_SLACK_BYTES: Final = 8
"""How far a frame may be over the negotiated size: some clients count without the overhead (as RabbitMQ tolerates)."""
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
PUBLISH: Final = b"\x00\x3c\x00\x28"
"""The code of basic.publish."""

_FRAME: Final = Struct(">BHI")
_CONTENT: Final = Struct(">HHQ")
_BASIC: Final = 60

Command = tuple[int, bytes, bytes | None, list[bytes] | None, int]
"""Channel, method payload; for content the property flags and list, and the bodies of the run; the size of a body that was
too large (then the bodies are None), else 0."""


@final
class Content:
    """A content that has begun; `header` is None until its header frame came.

    `is_refused`: too large, so the rest of it is passed over.  `body` grows in place: a list of frames and then their
    join would hold a large body twice.
    """

    __slots__ = ("body", "got_bytes", "header", "is_refused", "method", "size_bytes")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header: bytes | None = None
        self.size_bytes = 0
        self.got_bytes = 0
        self.body: BytesIO | None = None
        self.is_refused = False


def _erlang(data: bytes) -> str:
    """Bytes as RabbitMQ prints them in its texts."""
    if data and all(32 <= byte < 127 and byte not in b'"\\' for byte in data):
        return f'<<"{data.decode()}">>'
    return "<<" + ",".join(map(str, data)) + ">>"


def _octets(kind: int, payload: bytes) -> str:
    which = "all" if len(payload) <= 16 else "first 16"
    return f"type {kind}, {which} octets = {_erlang(payload[:16])}"


def _unexpected(text: str) -> ProtocolViolation:
    return ProtocolViolation(text, 505, "UNEXPECTED_FRAME")


@final
class FrameParser:
    """Cuts what one peer sends into commands.

    `is_stepping`: `feed` returns after one command, because it may change the limits (until connection.open).  After a
    violation, which stays in `violation`, nothing more is parsed; `violated_method` is the code of the publish that it broke off.
    """

    __slots__ = (
        "_chunks",
        "_contents",
        "_contents_bytes",
        "_held_bytes",
        "_last_header",
        "_last_method",
        "_middle",
        "_need_bytes",
        "_prefix",
        "contents_bytes_max",
        "contents_count_max",
        "frame_bytes_max",
        "is_stepping",
        "message_bytes_max",
        "violated_method",
        "violation",
    )

    def __init__(
        self,
        frame_bytes_max: int,
        message_bytes_max: int,
        contents_bytes_max: int,
        contents_count_max: int,
    ) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.message_bytes_max = message_bytes_max
        self.contents_bytes_max = contents_bytes_max
        self.contents_count_max = contents_count_max
        self.is_stepping = True
        self.violation: BrokerError | None = None
        self.violated_method = b""
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._need_bytes = 0
        self._contents: dict[int, Content] = {}
        self._contents_bytes = 0
        self._last_method = b""
        self._last_header = b""
        self._prefix = b""
        self._middle = b""

    def feed(self, data: bytes) -> list[Command]:
        """Take bytes and return the commands that they complete; never raises."""
        commands: list[Command] = []
        if self.violation is not None:
            return commands
        if self._chunks:
            # Not joined before the frame can be whole: else a peer that sends single bytes costs a copy of the frame each.
            self._chunks.append(data)
            self._held_bytes += len(data)
            if self._held_bytes < self._need_bytes:
                return commands
            data = b"".join(self._chunks)
            self._chunks.clear()
        try:
            used = self._scan(data, commands)
        except BrokerError as violation:
            self.violation = violation
            self._contents.clear()
            return commands
        if used < len(data):
            self._chunks.append(data[used:] if used else data)
            self._held_bytes = len(data) - used
        return commands

    def _scan(self, data: bytes, commands: list[Command]) -> int:
        """Append the commands in `data`, and return how many bytes are done with."""
        at: int = 0
        end = len(data)
        payload_bytes_max = self.frame_bytes_max - FRAME_OVERHEAD_BYTES + FRAME_SLACK_BYTES
        body_bytes_max = min(payload_bytes_max, self.message_bytes_max)
        startswith = data.startswith
        from_bytes = int.from_bytes
        contents = self._contents
        run: list[bytes] | None = None
        prefix = b"" if contents or self.is_stepping else self._prefix
        middle = self._middle
        while True:
            if prefix and startswith(prefix, at):
                # A publish like the last one up to its size: prefix, low half of the size, middle, the size again, body.
                sized = at + len(prefix)
                sized_again = sized + 4 + len(middle)
                size = data[sized : sized + 4]
                if startswith(middle, sized + 4) and data[sized_again : sized_again + 4] == size:
                    start = sized_again + 4
                    stop = start + from_bytes(size, "big")
                    if (
                        start < stop <= start + body_bytes_max
                        and stop < end
                        and (data[stop] == 0xCE)
                    ):
                        if run is None:
                            run = []
                            channel = (prefix[1] << 8) | prefix[2]
                            commands.append((channel, self._last_method, self._last_header, run, 0))
                        run.append(data[start:stop])
                        at = stop + 1
                        continue
            if end - at < 7:
                self._need_bytes = 7
                return at
            kind, channel, size_bytes = _FRAME.unpack_from(data, at)
            if size_bytes > payload_bytes_max:
                limit = self.frame_bytes_max - FRAME_OVERHEAD_BYTES
                raise ProtocolViolation(
                    f"{_octets(kind, b'')}: {{frame_too_large,{size_bytes},{limit}}}"
                )
            stop = at + 7 + size_bytes
            if stop >= end:
                self._need_bytes = size_bytes + FRAME_OVERHEAD_BYTES
                return at
            payload = data[at + 7 : stop]
            if data[stop] != 0xCE:
                raise ProtocolViolation(
                    f"{_octets(kind, payload)}: {{invalid_frame_end_marker,{data[stop]}}}"
                )
            at = stop + 1
            run = None
            if kind == METHOD and payload[:4] != PUBLISH and channel not in contents:
                commands.append((channel, payload, None, None, 0))
            else:
                if kind == METHOD and channel and not contents and not self.is_stepping:
                    stop = self._take_whole(data, at, channel, payload, body_bytes_max, commands)
                    if stop:
                        at = stop
                        prefix = self._prefix
                        middle = self._middle
                        continue
                self._take(kind, channel, payload, commands)
                prefix = b"" if contents or self.is_stepping else self._prefix
                middle = self._middle
            if self.is_stepping and commands:
                self._need_bytes = 0
                return at

    def _take_whole(
        self,
        data: bytes,
        at: int,
        channel: int,
        method: bytes,
        body_bytes_max: int,
        commands: list[Command],
    ) -> int:
        """Take the header and only body frame behind a publish, and return where they end.

        0: they are not all there, or not as plain; the frames are then taken one by one, with their checks.
        """
        end = len(data)
        if end - at < 7 + 14:
            return 0
        kind, number, header_bytes = _FRAME.unpack_from(data, at)
        body_at: int = at + FRAME_OVERHEAD_BYTES + header_bytes
        if kind != HEADER or number != channel or header_bytes < 14 or body_at + 7 >= end:
            return 0
        class_id, _weight, size_bytes = _CONTENT.unpack_from(data, at + 7)
        kind, number, body_bytes = _FRAME.unpack_from(data, body_at)
        stop: int = body_at + 7 + body_bytes
        if (
            kind != BODY
            or number != channel
            or class_id != _BASIC
            or not 0 < size_bytes == body_bytes <= body_bytes_max
            or header_bytes > self.frame_bytes_max - FRAME_OVERHEAD_BYTES + FRAME_SLACK_BYTES
            or stop >= end
            or data[stop] != 0xCE
            or data[body_at - 1] != 0xCE
        ):
            return 0
        if method == self._last_method:
            method = self._last_method
        header = self._note(channel, method, data[at + 7 : body_at - 1])
        commands.append((channel, method, header, [data[body_at + 7 : stop]], 0))
        return stop + 1

    def _take(self, kind: int, channel: int, payload: bytes, commands: list[Command]) -> None:
        """Take a frame that belongs to a content, or should."""
        if kind == HEARTBEAT or (channel == 0 and kind in (HEADER, BODY)):
            if channel or kind != HEARTBEAT:
                raise _unexpected(_octets(kind, payload))
            return
        content = self._contents.get(channel)
        try:
            self._take_part(kind, channel, payload, content, commands)
        except BrokerError:
            self.violated_method = b"" if content is None else PUBLISH
            raise

    def _take_part(
        self,
        kind: int,
        channel: int,
        payload: bytes,
        content: Content | None,
        commands: list[Command],
    ) -> None:
        if kind == METHOD:
            self._take_method(channel, payload, content, commands)
        elif kind == HEADER:
            if content is None:
                raise _unexpected("expected method frame, got non method frame instead")
            if content.header is not None:
                raise _unexpected("expected content body, got non content body frame instead")
            self._take_header(channel, payload, content, commands)
        elif kind == BODY:
            if content is None:
                raise _unexpected("expected method frame, got non method frame instead")
            if content.header is None:
                raise _unexpected(
                    f"expected content header for class {_BASIC}, got non content header frame instead"
                )
            self._take_body(channel, payload, content, commands)
        else:
            raise ProtocolViolation(f"{_octets(kind, payload)}: unknown_frame")

    def _take_method(
        self, channel: int, payload: bytes, content: Content | None, commands: list[Command]
    ) -> None:
        if content is not None and content.is_refused:
            # A peer that heard of the refusal may leave out the rest.
            del self._contents[channel]
            if payload[:4] != PUBLISH:
                commands.append((channel, payload, None, None, 0))
                return
        elif content is not None:
            if content.header is None:
                raise _unexpected(
                    f"expected content header for class {_BASIC}, got non content header frame instead"
                )
            raise _unexpected("expected content body, got non content body frame instead")
        if channel == 0:
            commands.append((0, payload, None, None, 0))
            return
        if len(self._contents) >= self.contents_count_max:
            raise ResourceLimit(f"more than {self.contents_count_max} contents begun at a time")
        # The same object again for the same bytes, so that what is cached by them finds its hash made.
        self._contents[channel] = Content(
            self._last_method if payload == self._last_method else payload
        )

    def _take_header(
        self, channel: int, payload: bytes, content: Content, commands: list[Command]
    ) -> None:
        if len(payload) < 14:
            raise syntax_error("content header is cut off")
        class_id, _weight, size_bytes = _CONTENT.unpack_from(payload)
        if class_id != _BASIC:
            raise _unexpected(
                f"expected content header for class {_BASIC}, got one for class {class_id} instead"
            )
        content.header = self._note(channel, content.method, payload)
        content.size_bytes = size_bytes
        if size_bytes == 0:
            del self._contents[channel]
            commands.append((channel, content.method, content.header, [b""], 0))
        elif size_bytes > self.message_bytes_max:
            content.is_refused = True
            commands.append((channel, content.method, content.header, None, size_bytes))

    def _note(self, channel: int, method: bytes, payload: bytes) -> bytes:
        """The properties of a header frame; a publish that comes twice is remembered by its bytes around size and body."""
        header = payload[12:]
        if method != self._last_method or header != self._last_header:
            self._last_method = method
            self._last_header = header
            self._prefix = b""
            return header
        number = channel.to_bytes(2, "big")
        if self._prefix[1:3] != number and payload[4:8] == b"\0\0\0\0":
            self._prefix = b"".join(
                (
                    _FRAME.pack(METHOD, channel, len(method)),
                    method,
                    END,
                    _FRAME.pack(HEADER, channel, len(payload)),
                    payload[:8],
                )
            )
            self._middle = header + END + b"\x03" + number
        # The same object again for the same bytes, so that what is cached by them finds its hash made.
        return self._last_header

    def _take_body(
        self, channel: int, payload: bytes, content: Content, commands: list[Command]
    ) -> None:
        size_bytes = len(payload)
        got_bytes = content.got_bytes + size_bytes
        if got_bytes > content.size_bytes:
            raise ProtocolViolation(
                f"content body is longer than the {content.size_bytes} bytes of its header"
            )
        content.got_bytes = got_bytes
        if got_bytes == content.size_bytes:
            del self._contents[channel]
            if content.is_refused:
                return
            if content.body is not None:
                self._contents_bytes -= got_bytes - size_bytes
                content.body.write(payload)
                payload = content.body.getvalue()
            commands.append((channel, content.method, content.header, [payload], 0))
        elif not content.is_refused:
            self._contents_bytes += size_bytes
            if self._contents_bytes > self.contents_bytes_max:
                raise ResourceLimit(
                    f"unfinished contents hold more than {self.contents_bytes_max} bytes"
                )
            if content.body is None:
                content.body = BytesIO()
            content.body.write(payload)


def method_frame(channel: int, payload: bytes) -> bytes:
    """One method frame."""
    return _FRAME.pack(METHOD, channel, len(payload)) + payload + END


def content_pieces(
    channel: int, method: bytes, header: bytes, body: bytes, frame_bytes_max: int
) -> list[bytes]:
    """The same as `content_frames` in pieces, for a body so large that joining them would cost a copy of it more."""
    step = frame_bytes_max - FRAME_OVERHEAD_BYTES
    pieces = [content_frames(channel, method, header, b"", frame_bytes_max, len(body))]
    for start in range(0, len(body), step):
        piece = body[start : start + step]
        pieces += (_FRAME.pack(BODY, channel, len(piece)), piece, END)
    return pieces


def content_frames(
    channel: int,
    method: bytes,
    header: bytes,
    body: bytes,
    frame_bytes_max: int,
    size_bytes: int | None = None,
) -> bytes:
    """A method with its content: `header` is the property flags and list; the body is cut into frames.

    `size_bytes` is said to be the body's size if the body follows apart.
    """
    parts = [
        _FRAME.pack(METHOD, channel, len(method)),
        method,
        END,
        _FRAME.pack(HEADER, channel, len(header) + 12),
        _CONTENT.pack(_BASIC, 0, len(body) if size_bytes is None else size_bytes),
        header,
        END,
    ]
    step = frame_bytes_max - FRAME_OVERHEAD_BYTES
    for start in range(0, len(body), step):
        piece = body[start : start + step]
        parts += (_FRAME.pack(BODY, channel, len(piece)), piece, END)
    return b"".join(parts)
