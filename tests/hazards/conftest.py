"""Every test of a hazard gets a server and hosts of its own, and leaves no process and no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support_hosts import hosts_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support_hosts import Hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Hosts, their senders and a server; afterwards nothing of it may be left."""
    with hosts_in(tmp_path) as started:
        yield started
