"""This project's application layer: consent file, identity, run properties (git, versions).

More than the peers are asked to do here; it shows what atopile itself pays.
"""

from __future__ import annotations

_telemetry = None


def load():
    import atotelemetry  # noqa: F401 - what a program pays for the line itself


def setup(url, room=0):
    global _telemetry  # noqa: PLW0603 - one program, one client
    from atotelemetry import Telemetry

    _telemetry = Telemetry(
        app="bench", notice=None, api_key="phc_bench", host=url, **({"queue_size": room} if room else {})
    )


def capture(name, properties):
    _telemetry.capture_event(name, properties)


def capture_exception(error):
    _telemetry.capture_exception(error)


def drain():
    _telemetry.client.flush(300.0)


def dropped():
    return _telemetry.client.stats.dropped
