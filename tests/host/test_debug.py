"""`debug`: one line for whoever looks, nothing for everybody else, and never an error."""

from __future__ import annotations

import functools
import logging
import signal
import threading
import time
import tracemalloc
import weakref

import pytest

from atotelemetry.host.debug import debug, is_for_the_host
from support_exceptions import with_entries
from support_processes import run_python


class Handler(logging.Handler):
    """Does with each line what the test says."""

    def __init__(self, action) -> None:
        super().__init__()
        self.emit = action


@pytest.fixture
def handle():
    """Return a function that sets what happens with each line."""
    logger = logging.getLogger("atotelemetry")
    level, handlers = logger.level, []

    def install(action) -> None:
        handlers.append(Handler(action))
        logger.addHandler(handlers[-1])
        logger.setLevel(logging.DEBUG)

    yield install
    logger.setLevel(level)
    for handler in handlers:
        logger.removeHandler(handler)


def test_a_line_goes_to_our_logger_at_debug(caplog):
    """Whoever turns on DEBUG for `atotelemetry` reads the text with its arguments in it."""
    caplog.set_level(logging.DEBUG, logger="atotelemetry")
    debug("lost %d of %r", 3, "seven")
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("atotelemetry", logging.DEBUG, "lost 3 of 'seven'")


def test_above_debug_there_is_nothing(caplog):
    """A host that logs at INFO hears nothing of us."""
    caplog.set_level(logging.INFO, logger="atotelemetry")
    debug("lost")
    assert caplog.records == []


@pytest.mark.parametrize("known", [True, False], ids=["logger exists", "no logger"])
@pytest.mark.parametrize("silenced_by", ["level", "disable"])
def test_a_line_that_nobody_reads_waits_for_nobody(monkeypatch, known, silenced_by):
    """Another thread may hold the lock of `logging` for long, while it configures it anew."""
    if known:
        logging.getLogger("atotelemetry")
    else:
        monkeypatch.delitem(logging.root.manager.loggerDict, "atotelemetry", raising=False)
    if silenced_by == "disable":
        monkeypatch.setattr(logging.root, "level", logging.DEBUG)
        monkeypatch.setattr(logging.root.manager, "disable", logging.DEBUG)
    speaking = threading.Thread(target=debug, args=("lost",), daemon=True)
    with logging._lock:
        speaking.start()
        speaking.join(20)
        assert not speaking.is_alive()


class Odd(ValueError):
    def __repr__(self):
        raise AssertionError

    args = property(__repr__)
    __str__ = __repr__


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError(), "ValueError()"),
        (OSError(2, "No such file"), "FileNotFoundError(2, 'No such file')"),
        (ValueError("x" * 1_000_000), f"ValueError('{'x' * 500}')"),
        (ValueError([1] * 1_000_000), "ValueError(...)"),
        (ValueError(1 << 65, Odd(), *range(1_000_000)), "ValueError(..., ..., 0, 1)"),
        (Odd("text", [1]), "Odd('text', ...)"),
    ],
    ids=["nothing", "usual", "long text", "list", "many", "odd"],
)
def test_an_error_is_shown_in_bounds(debug_lines, error, shown):
    """Of an error's arguments the texts and numbers are logged, without code of the host's or copies of its data."""
    tracemalloc.start()
    try:
        debug("failed: %r", error)
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024
    finally:
        tracemalloc.stop()
    assert debug_lines() == [f"failed: {shown}"]


def stop(*_):
    raise SystemExit(9)


def delete_and_stop(signum, frame):
    del signum, frame
    raise SystemExit(9)


def restore_and_stop(_, frame):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stop()


class Stopping:
    def __init__(self, *arguments) -> None:
        if arguments:
            raise SystemExit(9)

    def __getattr__(self, name):
        raise AssertionError(name)

    def __call__(self, signum, frame):
        stop()

    def method(self, signum, frame):
        delete_and_stop(signum, frame)


class Deleting:
    def __call__(self, signum, frame):
        del signum, frame
        stop()


class Signalled:
    def __repr__(self):
        signal.raise_signal(signal.SIGTERM)
        return "not stopped"


@pytest.fixture
def at_sigterm():
    """Return a function that installs a handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield functools.partial(signal.signal, signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


STOPPING = Stopping()
HANDLERS = {
    "function": stop,
    "deletes its arguments": delete_and_stop,
    "restores the default": restore_and_stop,
    "partial": functools.partial(stop, 1),
    "partial that deletes": functools.partial(delete_and_stop),
    "object that deletes": Deleting(),
    "cached": functools.lru_cache(stop),
    "object": STOPPING,
    "weak": weakref.proxy(STOPPING),
    "bound": STOPPING.method,
    "class": Stopping,
    "partial object": functools.partial(STOPPING),
}


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_signal_in_the_middle_ends_the_host(recorder, at_sigterm, handler):
    """The `SystemExit` of the host's signal handler comes out of `capture`, whatever the handler is."""
    at_sigterm(HANDLERS[handler])
    with pytest.raises(SystemExit) as stopped:
        recorder.client.capture("built", distinct_id="me", properties={"a": Signalled()})
    assert stopped.value.code == 9
    assert recorder.client.stats.dropped_by_reason == {"interrupted": 1}


def test_an_exit_that_was_raised_many_times():
    """Of a traceback with an entry for each time only the latest are looked at."""
    error = with_entries(SystemExit(), [1] * 500_000)
    began = time.thread_time()
    assert not is_for_the_host(error)
    assert time.thread_time() - began < 0.1


def test_a_handler_is_not_asked(recorder, at_sigterm):
    """A value's own `SystemExit` stays inside; no code of a handler runs to find that out."""
    asked = []

    class Handler(Stopping):
        def __getattribute__(self, name):
            asked.append(name)
            return super().__getattribute__(name)

    class Value:
        def __repr__(self):
            return self.shown(3, [self])

        def shown(self, number, values, *more):
            raise SystemExit

    at_sigterm(Handler())
    assert recorder.client.capture("built", distinct_id="me", properties={"a": Value()})
    assert recorder.event["properties"]["a"] == "<Value object (repr raised SystemExit)>"
    assert asked == []


def test_a_host_without_logging_does_not_get_it():
    """Where nobody imported `logging` nobody can listen, so it is not imported for a line."""
    program = (
        "import sys; from atotelemetry.host.debug import debug; debug('lost %s', 1); print('logging' in sys.modules)"
    )
    assert run_python(program) == "False\n"


def test_a_handler_that_raises_does_not_reach_us(handle):
    """The error of a handler of the host's stays out of our code, and the next line is written again."""
    said = []

    def fail(record: logging.LogRecord) -> None:
        said.append(record.getMessage())
        raise RuntimeError("broken handler")

    handle(fail)
    debug("first")
    debug("second")
    assert said == ["first", "second"]


def test_wrong_arguments_do_not_raise(handle):
    """Not even a line that cannot be formatted is an error."""
    handle(lambda record: record.getMessage())
    debug("lost %d", "no number")


def test_a_handler_that_comes_back_to_us_is_not_called_again(handle):
    """A handler that captures telemetry, whose loss is logged, would otherwise go round for ever."""
    said = []

    def again(record: logging.LogRecord) -> None:
        said.append(record.getMessage())
        debug("inside")

    handle(again)
    debug("first")
    debug("second")
    assert said == ["first", "second"]


def test_another_threads_line_is_not_lost_for_it(handle):
    """Only the thread inside a line is kept from writing another; others write theirs meanwhile."""
    said = []

    def wait_for_another(record: logging.LogRecord) -> None:
        said.append(record.getMessage())
        if record.getMessage() == "first":
            handler.release()  # logging holds a handler's lock while it works
            other = threading.Thread(target=debug, args=("other",))
            other.start()
            other.join()
            handler.acquire()

    handle(wait_for_another)
    (handler,) = [known for known in logging.getLogger("atotelemetry").handlers if isinstance(known, Handler)]
    debug("first")
    assert said == ["first", "other"]
