"""The plugin for pytest: nothing is sent while tests run, and two fixtures.

pytest loads it wherever the package is installed, so it imports nothing. `-p no:atotelemetry` leaves it out.

Telemetry is off for the whole session, in the processes that tests start, too. The variable `ATOTELEMETRY_OFF` says so.

captured_events: the events of the test's own process; see `atotelemetry.testing.captured`. The ini option `telemetry =
    mytool.main:telemetry` names the `Telemetry`; the default instance otherwise.
capture_server: a running `CaptureServer`. Processes of the test may send. They have a home of their own for the choice,
    the id and the cache.
"""

from __future__ import annotations

import os

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from atotelemetry.testing import CaptureServer

OFF_VARIABLE = "ATOTELEMETRY_OFF"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option."""
    parser.addini("telemetry", "the Telemetry whose events `captured_events` holds, as module:name", default="")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Switch telemetry off before a conftest imports the program, unless the variable is set already."""
    os.environ.setdefault(OFF_VARIABLE, "1")


@pytest.fixture
def captured_events(pytestconfig: pytest.Config) -> Iterator[list[dict[str, Any]]]:
    """Give the events that this process captures during the test, in a list; nothing is sent."""
    from importlib import import_module

    from atotelemetry.testing import captured

    module, _, name = pytestconfig.getini("telemetry").partition(":")
    telemetry = getattr(import_module(module), name or "telemetry") if module else None
    with captured(telemetry) as events:
        yield events


@pytest.fixture
def capture_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CaptureServer]:
    """Run a local PostHog, and let the processes of this test send.

    `capture_server.environment("mytool")` has the variables that lead `mytool` there.
    """
    from atotelemetry.testing import CaptureServer

    monkeypatch.delenv(OFF_VARIABLE, raising=False)
    for variable, name in (("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")):
        monkeypatch.setenv(variable, str(tmp_path / f"telemetry-{name}"))
    with CaptureServer() as server:
        yield server
