"""This project's client, with its defaults; the exit is left to its own hook."""

from __future__ import annotations

_client = None


def load():
    import atotelemetry  # noqa: F401 - what a program pays for the line itself


def setup(url, room=0):
    global _client  # noqa: PLW0603 - one program, one client
    from atotelemetry import TelemetryClient

    _client = TelemetryClient("phc_bench", url, **({"queue_size": room} if room else {}))


def capture(name, properties):
    _client.capture(name, distinct_id="me", properties=properties)


def capture_exception(error):
    _client.capture_exception(error, distinct_id="me")


def drain():
    _client.flush(300.0)


def dropped():
    return _client.stats.dropped
