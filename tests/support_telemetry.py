"""A `Telemetry` whose events are kept instead of sent."""

from __future__ import annotations

import json

import pytest

from atotelemetry.host.divert import divert
from atotelemetry.host.telemetry import Telemetry
from support_home import ID, store

NOWHERE = "http://127.0.0.1:9"  # never connected to: what these clients capture is diverted


class Recorded:
    """A `Telemetry` whose events are kept instead of sent."""

    def __init__(self, telemetry=None, **options):
        self.telemetry = telemetry or Telemetry(**{"app": "atopile", "api_key": "phc_test", "host": NOWHERE, **options})
        self._lines = []
        divert(self.telemetry.client, self._lines.append)

    @property
    def events(self):
        return [json.loads(line) for line in self._lines]

    @property
    def names(self):
        return [event["event"] for event in self.events]

    def only(self):
        (event,) = self.events
        return event

    def clear(self):
        self._lines.clear()


@pytest.fixture
def recorded(file):
    store(file, f"id: {ID}\ntelemetry: true\n")
    return Recorded()


def raise_it(error):
    raise error
