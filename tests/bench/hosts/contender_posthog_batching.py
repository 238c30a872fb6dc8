"""PostHog's SDK with the settings that move the most events: batches of a thousand on two threads."""

from __future__ import annotations

import contender_posthog
from contender_posthog import capture, capture_exception, drain, dropped, load, setup

__all__ = ["capture", "capture_exception", "drain", "dropped", "load", "setup"]

contender_posthog.OPTIONS = {"thread": 2, "flush_at": 1000}
