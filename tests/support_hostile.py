"""Hosts and clients that keep their lines, for values that hurt."""

from __future__ import annotations

from support_processes import run_python

HOST = """
import sys
from atotelemetry import TelemetryClient
from atotelemetry.host.divert import divert
client = TelemetryClient("key", "http://127.0.0.1:9", queue_size=100_000)
lines = []
feed_again = divert(client, lines.append)
"""


def run_host(source: str, *options: str) -> str:
    """Run a host to its end; return what it printed. A crash is a failure here, and no end of this suite."""
    return run_python(HOST + source, options=options)


class Panic(BaseException):
    pass


# Only while something is captured: whoever shows a failed test asks the same questions.
ARMED = []


class HasNoTraceback(BaseException):
    """Whoever asks for its traceback gets the next one."""

    @property
    def __traceback__(self):
        if ARMED:
            raise HasNoTraceback


class Raises:
    """Raises from whatever is asked of it."""

    def __init__(self, error: BaseException) -> None:
        object.__setattr__(self, "_error", error)

    def _raise(self, *_: object, **__: object):
        if ARMED:
            raise object.__getattribute__(self, "_error")

    __bool__ = __len__ = __iter__ = __fspath__ = keys = items = _raise

    def __getattr__(self, name):
        self._raise()
        raise AttributeError(name)

    def __hash__(self):
        self._raise()
        return 1

    def __eq__(self, other):
        self._raise()
        return self is other

    def __repr__(self):
        self._raise()
        return "Raises()"

    __str__ = __repr__


ERRORS = [
    *(SystemExit(3), Panic(), HasNoTraceback(), GeneratorExit()),
    *(SystemError(), MemoryError(), StopIteration(), RecursionError()),
]
