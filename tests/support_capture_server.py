"""Requests to a capture server."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import closing
from typing import Any

import pytest

from atotelemetry.testing import CaptureServer

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"


def event(name="started", **fields):
    return {"event": name, "distinct_id": "someone", "properties": {}, "uuid": UUID, **fields}


def batch(*events):
    return {"api_key": "phc_test", "batch": list(events), "sent_at": "2026-01-02T03:04:05Z"}


def client(server):
    return closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10))


def post(server, payload: Any, path="/batch/", headers=None, connection=None):
    """Send a payload (bytes as they are, everything else as JSON); return status and text of the answer."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    if connection is None:
        with client(server) as fresh:
            return post(server, body, path, headers, fresh)
    connection.request("POST", path, body, headers or {})
    response = connection.getresponse()
    return response.status, response.read().decode()


def server_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("capture-server")]


@pytest.fixture
def server():
    with CaptureServer() as running:
        yield running
    assert server_threads() == []
