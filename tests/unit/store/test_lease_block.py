"""The lease file's two blocks."""

import pytest

from store.lease.block import (
    BLOCK_BYTES,
    RENEWAL_OFFSET,
    Block,
    decode_block,
    decode_file,
    encode_block,
    encode_file,
    is_lease_intact,
)
from store.lease.host import Identity


def block(**changes):
    made = Block(9, "c" * 32, Identity("höst\nevil 1", 7, "100", "boot", "pid:[1]"), 5.0, "a b")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_block_comes_back_as_it_was():
    found = decode_block(encode_block(block(counter=3, is_opened=True, durable_batch=77)))
    assert (found.epoch, found.claim, found.duration_seconds, found.addresses) == (
        9,
        "c" * 32,
        5.0,
        "a b",
    )
    assert (found.counter, found.is_opened, found.durable_batch, found.is_released) == (
        3,
        True,
        77,
        False,
    )
    assert found.owner.host == "höst?evil 1" and found.owner.pid == 7


def test_long_names_still_fit():
    raw = encode_block(
        Block(1, "c" * 32, Identity("h" * 999, 1, "1", "b" * 999, "n" * 999), 1, "a" * 9999)
    )
    assert len(raw) == BLOCK_BYTES and decode_block(raw) is not None


@pytest.mark.parametrize("offset", range(0, BLOCK_BYTES, 7))
def test_no_flipped_byte_passes(offset):
    raw = bytearray(encode_block(block()))
    raw[offset] ^= 0x41
    assert decode_block(bytes(raw)) is None


def test_a_torn_renewal_leaves_the_owner_known():
    raw = bytearray(encode_file(block()))
    raw[RENEWAL_OFFSET + 50] ^= 1
    found = decode_file(bytes(raw))
    assert found.renewed is None and found.latest.owner.pid == 7
    assert not is_lease_intact(bytes(raw)) and is_lease_intact(encode_file(block()))


def test_a_torn_claim_leaves_the_renewal_known():
    raw = encode_file(block(counter=4))
    assert decode_file(bytes(100) + raw[100:]).latest.counter == 4
    assert decode_file(b"").latest is None


def test_a_renewal_of_another_claim_is_no_renewal_of_this_one():
    raw = encode_file(block())[:RENEWAL_OFFSET] + encode_block(block(claim="d" * 32))
    assert decode_file(raw).renewed is None
