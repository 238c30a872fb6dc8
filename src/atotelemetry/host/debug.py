"""One DEBUG line in the host's log, if the host looks at it.

Runs in the host, on any thread. `logging` takes milliseconds to import. It is only looked up: a host without it has no
handler either. A handler may itself capture telemetry; the guard prevents an endless recursion. Its lock is not taken
for a line without readers: another thread may hold it for long, while it closes handlers.
"""

from __future__ import annotations

import sys
from _thread import _local

from atotelemetry.host.interrupts import is_for_the_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_thread = _local()  # `logging`: this thread is logging a line


def _is_heard(logging: Any) -> bool:  # noqa: ANN401 - a module
    """Whether the host's `logging` is set to DEBUG for us; unlike its own functions this takes no lock."""
    manager = logging.root.manager
    logger = manager.loggerDict.get("atotelemetry")
    level: int = (logger if isinstance(logger, logging.Logger) else logging.root).getEffectiveLevel()
    return bool(level <= logging.DEBUG and manager.disable < logging.DEBUG)


def debug(message: str, *args: object) -> None:
    """Log `message % args` to the `atotelemetry` logger at DEBUG; never raises.

    The line is dropped without `logging`, and inside another such line of this thread.
    """
    try:
        logging = sys.modules.get("logging")
        if logging is None:
            return
        if not _is_heard(logging):
            return
        if getattr(_thread, "logging", False):
            return
        _thread.logging = True
        try:
            logging.getLogger("atotelemetry").debug(message, *args)
        finally:
            _thread.logging = False
    except Exception:
        # A handler of the host's that raises is the host's business, but not at our line. In a `__del__` at the
        # interpreter's end even `sys` may be None.
        return
    except BaseException as error:
        if is_for_the_host(error):
            raise
