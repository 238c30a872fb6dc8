"""One pair of events for each build invocation, whatever number of targets, threads and processes it has."""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import contextmanager
from contextvars import ContextVar

from atopile.telemetry.properties import ThinProperties
from atopile.telemetry.telemetry import Telemetry

_current = ContextVar("invocation", default=None)


class BuildInvocation:
    """Counts its targets down; the last one to end, or the end of the command, sends the second event."""

    def __init__(self):
        self.id = str(uuid.uuid4())
        self.pid = os.environ.get("ATO_VSCE_PID", "")
        self._began = time.perf_counter()
        self._lock = threading.Lock()
        self._open = set()
        self._count = 0
        self._outcome = "success"
        self._closed = self._sent = False
        self._send("cli:build_start", "started")

    def _send(self, event, outcome):
        extra = {
            "build_invocation_id": self.id,
            "counting_unit": "invocation",
            "via_vsce": bool(self.pid),
            "outcome": outcome,
            "duration": time.perf_counter() - self._began,
            "target_count": self._count,
        }
        Telemetry.get().capture(event, ThinProperties(extra=extra))

    def add(self, targets):
        with self._lock:
            self._open.update(targets)
            self._count += len(targets)

    def complete(self, target, outcome):
        with self._lock:
            self._open.discard(target)
            self._merge(outcome)

    def close(self, outcome="success"):
        with self._lock:
            self._closed = True
            if outcome != "success":
                self._open.clear()
            self._merge(outcome)

    def _merge(self, outcome):
        if outcome == "failed" or self._outcome == "success":
            self._outcome = outcome
        if self._closed and not self._open and not self._sent:
            self._sent = True
            self._send("cli:build_end", self._outcome)


def apply_worker_context(invocation_id, pid):
    """Tell a worker what changed since its forkserver was started."""
    os.environ["ATO_BUILD_INVOCATION_ID"] = invocation_id
    os.environ["ATO_VSCE_PID"] = pid


@contextmanager
def capture_build_invocation():
    """Measure what happens inside; one inside another is part of it."""
    if _current.get() is not None:
        yield _current.get()
        return
    invocation = BuildInvocation()
    token = _current.set(invocation)
    try:
        yield invocation
    except BaseException:
        invocation.close("failed")
        raise
    else:
        invocation.close()
    finally:
        _current.reset(token)
