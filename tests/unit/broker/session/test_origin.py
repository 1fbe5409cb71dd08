from __future__ import annotations

import socket

import pytest

from broker.session.origin import is_own_name, is_own_page


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "localhost:15672", "LOCALHOST", "127.0.0.1:15672", "[::1]:15672", "192.0.2.7"]
    + ["a.localhost", socket.gethostname(), f"{socket.gethostname()}:15672"],
)
def test_names_of_our_own(host):
    assert is_own_name(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example:15672", "127.0.0.1.evil.example", "localhost.evil.example", "[", "a@b.example"],
)
def test_names_that_others_own(host):
    assert not is_own_name(host)


@pytest.mark.parametrize(
    "origin",
    ["", "http://localhost", "https://localhost:3000", "http://127.0.0.1:80", "http://[::1]"],
)
def test_pages_of_our_own(origin):
    assert is_own_page(origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://192.0.2.7",
        "http://localhost.evil.example",
        "http://[",
    ]
    + ["file://", "localhost"],
)
def test_pages_of_others(origin):
    assert not is_own_page(origin)
