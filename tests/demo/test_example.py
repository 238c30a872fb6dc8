"""The demo's CLI: its events, and a no."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.demo.verdict import EVENTS

EXAMPLE = str(Path(__file__).with_name("example.py"))


def run(server, tmp_path, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ATO_", "DO_NOT_TRACK"))}
    environment |= {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "EXAMPLE_SERVICES_TELEMETRY_URL": server.url,
        "EXAMPLE_TELEMETRY": "on",  # neither the notice of a first run nor CI
        **variables,
    }
    return subprocess.run(
        [sys.executable, EXAMPLE, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_what_arrives(server, tmp_path):
    """One run gives four events, in order, of one run and one person, with the properties given."""
    ended = run(server, tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "built blinky, 7 parts\n", "")
    events = server.wait_for_events(len(EVENTS))
    assert tuple(event["event"] for event in events) == EVENTS
    assert len({event["properties"]["run_id"] for event in events}) == 1
    assert len({event["distinct_id"] for event in events}) == 1
    assert [event["properties"].get("board") for event in events] == [None, "blinky", "blinky", None]
    assert events[-1]["properties"]["parts"] == 7
    assert events[0]["properties"]["arguments"] == 0
    assert server.requests[0].headers["User-Agent"].startswith("example/")


@pytest.mark.parametrize("variables", [{"DO_NOT_TRACK": "1"}, {"EXAMPLE_TELEMETRY": "off"}])
def test_no_is_no(server, tmp_path, variables):
    """Somebody who opted out sees the same output, and nothing is sent and nothing written."""
    ended = run(server, tmp_path, **variables)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "built blinky, 7 parts\n", "")
    assert server.connection_count == 0
    assert list(tmp_path.iterdir()) == []


def test_can_be_looked_at(server, tmp_path):
    """With EXAMPLE_TELEMETRY=log the events go to stderr, and nowhere else."""
    ended = run(server, tmp_path, EXAMPLE_TELEMETRY="log")
    assert ended.stdout == "built blinky, 7 parts\n"
    assert len(ended.stderr.splitlines()) == len(EVENTS)
    assert server.connection_count == 0
