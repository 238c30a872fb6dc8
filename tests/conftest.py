"""What holds for every test: nothing of the user's gets in, nothing gets out, and no sender is left when all is over.

Senders are real processes that outlive whoever started them. A run knows its own by a mark in their environment, to
which each test adds its own (`support_processes`). Tests run in parallel: each worker is a run.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from atotelemetry.host.client import TelemetryClient
from atotelemetry.testing import CaptureServer
from support_processes import MARK, kill, new_mark, senders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 40.0  # more than any sender's deadline: one that lives longer breaks its promise

# What says something about the user, or decides where and whether events are sent.
_PRIVATE_PREFIXES = ("ATO_", "ATOPILE_", "FBRK_", "SUDO_", "GITHUB_", "COVERAGE_", "COV_CORE_", "GIT_")
_PRIVATE = frozenset(
    {
        *("DO_NOT_TRACK", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("CI", "BUILD_ID", "BUILDKITE", "CIRCLECI", "CIRRUS_CI", "CODEBUILD_BUILD_ID", "GITLAB_CI", "JENKINS_URL"),
        *("TEAMCITY_VERSION", "TF_BUILD", "TRAVIS"),
        *("PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONSTARTUP", "PYTHONUNBUFFERED", "PYTHONWARNINGS"),
    }
)

# Measures with `resource`, which is POSIX's.
collect_ignore = ["test_bench.py"] if sys.platform == "win32" else []

# Tests that share a costly fixture, by how their ids start: in a parallel run one worker takes them all.
_TOGETHER = (
    "tests/demo/test_demo.py::",
    "tests/sender/test_deadline.py::test_a_stalled_sender_is_gone",
    "tests/test_installed_cli.py::",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out single tests, but those in `_TOGETHER` as one; `--dist loadgroup` needs an older pytest."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((start for start in _TOGETHER if nodeid.startswith(start)), nodeid)

    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests about POSIX on Windows."""
    if sys.platform == "win32":
        for marker in item.iter_markers("posix"):
            pytest.skip(marker.args[0])


@pytest.fixture(scope="session", autouse=True)
def no_sender_is_left() -> Iterator[None]:
    """Fail the run when a sender of its own still runs after the last test; wait for those that drain."""
    mark = f"{uuid.uuid4().hex}/"
    os.environ[MARK] = mark
    try:
        yield
    finally:
        del os.environ[MARK]
    ends_at = time.monotonic() + _PATIENCE
    while (left := senders(mark)) and time.monotonic() < ends_at:
        time.sleep(0.05)
    for pid in left:
        kill(pid)
    assert not left, f"senders outlived the suite by {_PATIENCE:g} s: {left}"


@pytest.fixture(autouse=True)
def private_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the test an empty home, a mark, and an environment that says nothing about the user or the machine's CI."""
    home = tmp_path_factory.mktemp("private-home")
    # Its own, because a test may undo its `monkeypatch` in the middle.
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in _PRIVATE or name.startswith(_PRIVATE_PREFIXES):
                patch.delenv(name)
        for name in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"):
            patch.setenv(name, str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
        patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))  # senders note there that a network failed
        patch.setenv(MARK, new_mark())
        yield


@pytest.fixture
def server() -> Iterator[CaptureServer]:
    """Run a PostHog-compatible endpoint that accepts everything PostHog would."""
    with CaptureServer() as running:
        yield running


@pytest.fixture
def new_client() -> Iterator[Callable[..., TelemetryClient]]:
    """Return a maker of clients with small senders; after the test each is shut down and its senders have gone."""
    clients: list[TelemetryClient] = []

    def make(host: str = "http://127.0.0.1:9", **options: object) -> TelemetryClient:
        settings = {"app": "tool", "app_version": "1.2", "request_timeout": 5.0, "sender_deadline": 10.0}
        clients.append(TelemetryClient("phc_test", host, **{**settings, **options}))
        return clients[-1]

    yield make
    for client in clients:
        client.flush(_PATIENCE, delivered=True)
        client.shutdown()
