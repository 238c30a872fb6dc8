"""Numbers that the host publishes and the sender keeps to. A leaf."""

from __future__ import annotations

__all__ = ["WORKER_WAKE_INTERVAL"]

WORKER_WAKE_INTERVAL = 0.1
"""How long the sender gathers events before it posts them."""
