"""Coverage-guided fuzzing of the STOMP parser and session, with atheris (pip install atheris).

    python tests/fuzz/fuzz_stomp.py [-max_total_time=600] [libFuzzer's options]

The corpus is kept in tests/fuzz/corpus/stomp and begins with the inputs of the conformance cases.  The first byte of an input
chooses: what is checked, the profile, whether to log in first, and how the rest is cut.  A finding is an exception, a
frame that depends on how bytes were cut, or something left behind by a connection that is gone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import atheris  # noqa: E402

with atheris.instrument_imports(include=["broker.wire", "broker.session", "broker.core"]):
    from broker.errors import ProtocolViolation
    from broker.session.stomp_connect import StompLimits
    from broker.session.stomp_profile import PROFILES
    from broker.wire.stomp import FrameLimits, FrameParser
    from broker.wire.stomp_headers import V10, V11, V12, split_block
    from tests.support.stomp_house import House

CORPUS = HERE / "corpus" / "stomp"
CHUNKS = (0, 1, 3, 17)
NAMES = tuple(PROFILES)


def frames_of(data: bytes, size: int) -> tuple[list, str]:
    parser = FrameParser(FrameLimits(body_bytes=4096, headers=20, header_bytes=2048))
    frames = []
    for at in range(0, len(data), size or len(data) or 1):
        frames += parser.feed(data[at : at + (size or len(data))])
    return frames, "" if parser.violation is None else parser.violation.text


def check_parser(data: bytes, size: int) -> None:
    whole = frames_of(data, 0)
    assert whole[0] == frames_of(data, size)[0], "frames depend on how the bytes were cut"
    for _, block, _, _ in whole[0]:
        for version in (V10, V11, V12):
            try:
                pairs = split_block(block, version)
            except ProtocolViolation:
                continue
            assert len({name for name, _ in pairs}) == len(pairs)


def check_session(data: bytes, size: int, profile: str, is_logged_in: bool) -> None:
    house = House(StompLimits(profile=PROFILES[profile], body_bytes_max=65_536))
    session = house.peer("a")
    if is_logged_in:
        house.connect("a", "1.2")
    for at in range(0, len(data), size or len(data) or 1):
        session.receive_data(data[at : at + (size or len(data))])
        house.turn()
    house.wait(5)
    house.turn()
    house.read("a")
    house.lose("a")
    core = house.core
    assert not core.broker._sinks, "a subscription is left behind"
    for queue in core.vhost.queues.values():
        assert not queue.subscriptions and not queue.is_exclusive
        held = [d for lane in queue.lanes for d in lane.unsettled.values()]
        assert all(d.subscription is None for d in held), "a message is left in nobody's hands"


def test_one_input(data: bytes) -> None:
    if not data:
        return
    choice, rest = data[0], data[1:]
    size = CHUNKS[choice & 3]
    if choice & 4:
        check_parser(rest, size or 1)
    else:
        profile = NAMES[(choice >> 4) % len(NAMES)]
        check_session(rest, size, profile, not choice & 8)


def seed() -> None:
    """Begin with what the conformance cases send, unless it is there already."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    if any(CORPUS.iterdir()):
        return
    made = HERE.parent / "conformance"
    for path in sorted(made.glob("stomp*.json")):
        for number, case in enumerate(json.loads(path.read_text("utf-8"))["cases"]):
            text = "".join(step.get("in", "") for step in case["steps"] if step.get("peer") != "b")
            mode = NAMES.index(case.get("profile", "strict")) << 4 | (0 if "version" in case else 8)
            raw = bytes([mode]) + text.encode().replace(b"^@", b"\0")
            if len(raw) < 2000:
                (CORPUS / f"{path.stem}-{number}").write_bytes(raw)


def main() -> None:
    seed()
    options = [f"-dict={HERE / 'stomp.dict'}", "-max_len=2048", "-timeout=10"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(CORPUS)], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
