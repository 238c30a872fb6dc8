"""`debug`: one line for whoever looks, nothing for everybody else, and never an error."""

from __future__ import annotations

import logging
import threading

import pytest

from atotelemetry.host.debug import debug
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
