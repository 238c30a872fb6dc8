"""The time, read where a test of the host's does not stop it.

Runs in the host, on any thread. freezegun replaces `time.time`, `time.monotonic` and their like in every loaded module,
and `datetime.datetime` too. With a frozen monotonic clock a flush would never time out. It leaves `clock_gettime` and
its operating-system clocks alone.
"""

from __future__ import annotations

import sys
import time
from time import gmtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["monotonic", "utc_text", "wall_clock"]

if sys.platform == "win32":
    import _imp

    # There are no such functions. But the built-in module can be made once more, with functions that nobody replaced.
    _time: Any = _imp.create_builtin(time.__spec__)
    _imp.exec_builtin(_time)
    monotonic, _now_ns = _time.monotonic, _time.time_ns

else:
    from time import CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, clock_gettime_ns

    def monotonic() -> float:
        """Return the seconds since some moment in the past."""
        return clock_gettime(CLOCK_MONOTONIC)

    def _now_ns() -> int:
        return clock_gettime_ns(CLOCK_REALTIME)


def wall_clock() -> Callable[[], int]:
    """Return a function that tells the nanoseconds since 1970 in UTC; negative before."""
    # The fastest there is, unless a test has replaced it.
    known: object = time.time_ns
    return time.time_ns if type(known) is type(len) else _now_ns


def utc_text(seconds: int) -> str:
    """Return the instant so many seconds after 1970 as ISO 8601 without a zone, such as "2026-01-02T03:04:05"."""
    # Without `datetime`, whose class a test may have replaced. Given an instant, a fake `gmtime` tells the truth.
    try:
        year, month, day, hour, minute, second = gmtime(seconds)[:6]
    except (OSError, OverflowError, ValueError):
        year = 0
    if not 1 <= year <= 9999:  # what ISO 8601 can say
        return "1970-01-01T00:00:00"
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"
