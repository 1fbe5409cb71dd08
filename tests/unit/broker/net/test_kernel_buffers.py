"""How many connections a link opens by itself."""

from __future__ import annotations

import pytest

from broker.net import kernel_buffers
from broker.net.kernel_buffers import connections_for, limit_bytes


@pytest.mark.parametrize(
    ("round_trip_ms", "limit_mib", "wanted"),
    [
        (0.0, 4, 1),
        (20.0, 4, 1),
        (63.0, 4, 2),
        (63.0, 64, 1),
        (250.0, 4, 4),
        (250.0, 64, 1),
        (2000.0, 64, 3),
        (60_000.0, 64, 4),
    ],
)
def test_as_many_as_the_buffers_need_and_no_more(round_trip_ms, limit_mib, wanted):
    assert connections_for(round_trip_ms, limit_mib << 20) == wanted


def test_the_smaller_of_the_kernels_limits_counts(tmp_path, monkeypatch):
    send, receive = tmp_path / "wmem", tmp_path / "rmem"
    monkeypatch.setattr(kernel_buffers, "LIMITS", (send, receive))
    assert limit_bytes() == 4 << 20
    send.write_text("4096\t16384\t8388608\n")
    receive.write_text("4096\t131072\t33554432\n")
    assert limit_bytes() == 8 << 20
    receive.write_text("nothing of use")
    assert limit_bytes() == 4 << 20
