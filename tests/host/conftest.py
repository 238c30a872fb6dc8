"""What the tests of several modules share: repositories, homes, clients whose events are kept, real hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from atotelemetry.host import consent, default, values
from support_client import debug_lines, recorder
from support_feeder import feeder, new_feeder, spawner, threads
from support_git import empty_repository, git, head, repository
from support_home import fresh_home
from support_hosts import hosts_in
from support_telemetry import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support_hosts import Hosts

__all__ = [
    "debug_lines",
    "empty_repository",
    "feeder",
    "git",
    "head",
    "new_feeder",
    "recorded",
    "recorder",
    "repository",
    "spawner",
    "threads",
]


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an event time: a garbage collection of the suite's may take longer than the limits that tests mark."""
    if request.node.get_closest_marker("limits") is None:
        monkeypatch.setattr(values, "_MAX_SECONDS", 60.0)
        monkeypatch.setattr(values, "_MAX_WAIT", 60.0)


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the test a home without a file, and no default instance yet; return where the file would be."""
    monkeypatch.setattr(default, "_defaults", {})
    monkeypatch.setattr(consent, "_run_ids", {})
    return fresh_home(monkeypatch, tmp_path)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Real hosts. They may create a `telemetry.yaml`, as first runs do, and nothing else."""
    with hosts_in(tmp_path / "hosts", may_choose=True) as started:
        yield started
