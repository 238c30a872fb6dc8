"""PostHog's SDK as atopile used it: two threads, every event at once, and a flush of its own at exit."""

from __future__ import annotations

import contender_posthog
from contender_posthog import capture, capture_exception, drain, dropped, load

__all__ = ["capture", "capture_exception", "drain", "dropped", "load", "setup"]

contender_posthog.OPTIONS = {"sync_mode": False, "thread": 2, "flush_at": 1, "flush_interval": 0.1}


def setup(url, room=0):
    import atexit

    contender_posthog.setup(url, room)
    atexit.register(contender_posthog._client.flush)
