"""PostHog's own SDK with its defaults; the exit is left to its own hook, which gives up after a second."""

from __future__ import annotations

OPTIONS = {}

_client = None


def load():
    import posthog  # noqa: F401 - what a program pays for the line itself


def setup(url, room=0):
    global _client  # noqa: PLW0603 - one program, one client
    from posthog import Posthog

    _client = Posthog(project_api_key="phc_bench", host=url, **OPTIONS, **({"max_queue_size": room} if room else {}))


def capture(name, properties):
    _client.capture(name, distinct_id="me", properties=properties)


def capture_exception(error):
    _client.capture_exception(error, distinct_id="me")


def drain():
    _client.flush(timeout_seconds=None)


def dropped():
    return None  # it does not say
