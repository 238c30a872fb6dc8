"""Clients whose events are looked at instead of sent, and hosts that run to their end."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from atotelemetry.host.divert import divert

if TYPE_CHECKING:
    from atotelemetry.host.client import TelemetryClient

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")

# A host's beginning: a client of the server whose url is the first argument, and what it can say about itself.
HOST = """
import os, sys, time
import atotelemetry
client = atotelemetry.TelemetryClient(
    "phc_test", sys.argv[1], app="tool", app_version="1.2", request_timeout=5, sender_deadline=30
)

def burden():
    threads = os.listdir("/proc/self/task")
    try:
        children = "".join(open(f"/proc/self/task/{thread}/children").read() for thread in threads)
    except OSError:
        return burden()  # a thread ended meanwhile
    return len(threads), len(children.split())
"""


class Recorder:
    """Takes a client's encoded events instead of its feeder, and so starts nothing."""

    def __init__(self, client: TelemetryClient) -> None:
        self.lines: list[bytes] = []
        divert(client, self.lines.append)
        self.client = client

    @property
    def event(self) -> dict:
        (line,) = self.lines
        return json.loads(line)

    @property
    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def recorder(new_client):
    """Return a client whose events are looked at instead of sent."""
    return Recorder(new_client())


@pytest.fixture
def debug_lines(caplog):
    """Say what was logged so far."""
    caplog.set_level(logging.DEBUG, logger="atotelemetry")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "atotelemetry"]


def run_host(source: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a host to its end."""
    return subprocess.run(
        [sys.executable, "-c", HOST + source, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
