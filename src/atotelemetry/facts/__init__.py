"""Facts about a run, and small tools that host, sender and command share. Imports none of them."""

WORKER_WAKE_INTERVAL = 0.1
"""How long the sender gathers events before it posts them. The host publishes it."""
