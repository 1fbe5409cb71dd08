"""AMQP clients of other languages against a real broker process; skipped by name where the toolchain or its registry is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import clients
from tests.support.site import Site

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("clients"))
    try:
        made.start_broker()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("language", ["go", "node", "rust", "java"])
def test_a_client_of_another_language(
    language: str, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = clients.built(language, tmp_path_factory)
    done = clients.run(folder, f"amqp://guest:guest@127.0.0.1:{site.port(5672)}/%2F")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("done")
