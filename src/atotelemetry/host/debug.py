"""What becomes of an error: one DEBUG line in the host's log, or back to the host, which it was meant for.

Runs in the host, on any thread. `logging` takes milliseconds to import. It is only looked up: a host without it has no
handler either. A handler may itself capture telemetry; the guard prevents an endless recursion. Its lock is not taken
for a line without readers: another thread may hold it for long, while it closes handlers.
"""

from __future__ import annotations

import sys
from _thread import _local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any, TypeVar

    Result = TypeVar("Result")

__all__ = ["attempt", "debug", "is_for_the_host"]

# A class of the host's, or its metaclass, may have another attribute there.
_traceback, _arguments = (BaseException.__dict__[name].__get__ for name in ("__traceback__", "args"))
_name, _mro, _namespace = (type.__dict__[name].__get__ for name in ("__name__", "__mro__", "__dict__"))
_MOST_ARGUMENTS, _LONGEST_TEXT, _LONGEST_NUMBER = 4, 500, 64  # of an error; characters, and bits
_MOST_FRAMES = 4_000  # that an interruption is looked for in
_MOST_VARIABLES = 100  # of a function that may be a signal handler
_FUNCTION = type(lambda: 0)
_IS_FUNCTION, _HAS_ARGS = 1, 4  # `inspect.CO_OPTIMIZED` and `CO_VARARGS`
_thread = _local()  # `logging`: this thread is logging a line


def _is_heard(logging: Any) -> bool:  # noqa: ANN401 - a module
    """Whether the host's `logging` is set to DEBUG for us; unlike its own functions this takes no lock."""
    manager = logging.root.manager
    logger = manager.loggerDict.get("atotelemetry")
    level: int = (logger if isinstance(logger, logging.Logger) else logging.root).getEffectiveLevel()
    return bool(level <= logging.DEBUG and manager.disable < logging.DEBUG)


def debug(message: str, *args: object) -> None:
    """Log `message % args` to the `atotelemetry` logger at DEBUG; never raises.

    Of an error its short texts and numbers are shown, and none of its own code runs. The line is dropped without
    `logging`, and inside another such line of this thread.
    """
    try:
        logging = sys.modules.get("logging")
        if logging is None or not _is_heard(logging) or getattr(_thread, "logging", False):
            return
        _thread.logging = True
        try:
            shown = (_Brief(each) if issubclass(type(each), BaseException) else each for each in args)
            logging.getLogger("atotelemetry").debug(message, *shown)
        finally:
            _thread.logging = False
    except Exception:
        # A handler of the host's that raises is the host's business, but not at our line. In a `__del__` at the
        # interpreter's end even `sys` may be None.
        return
    except BaseException as error:
        if is_for_the_host(error):
            raise


class _Brief:
    """Shows an error in a line of the log."""

    def __init__(self, error: Any) -> None:  # noqa: ANN401 - an exception
        self._error = error

    def __repr__(self) -> str:
        name = str.__str__(_name(type(self._error)))
        return f"{name}({', '.join(map(_brief, _arguments(self._error)[:_MOST_ARGUMENTS]))})"


def _brief(argument: object) -> str:
    if type(argument) is str:
        return repr(argument[:_LONGEST_TEXT])
    return repr(argument) if type(argument) is int and argument.bit_length() <= _LONGEST_NUMBER else "..."


def attempt(function: Callable[..., Result], *arguments: object, default: Result, why: str = "") -> Result:
    """Call code of the host's; return `default`, and log `why`, if it raises anything that is not for the host."""
    try:
        return function(*arguments)
    except BaseException as error:
        # At the end of the stack there is no room for a call.
        if not issubclass(type(error), Exception) and is_for_the_host(error):
            raise
        if why:
            debug(why, error)
        return default


def is_for_the_host(error: BaseException) -> bool:
    """Whether `error` is Ctrl-C, or was raised by a signal handler of the host's (`sys.exit` at SIGTERM).

    Any other exception in our code was raised by a value of the host's, and ends here.
    """
    kind = type(error)
    if issubclass(kind, Exception):
        return False
    if issubclass(kind, KeyboardInterrupt):
        return True
    handlers = _signal_handlers()  # one of them may have deleted its arguments
    interrupted = None
    traceback = _traceback(error)
    for _ in range(_MOST_FRAMES):  # those of earlier times that it was raised come last
        if traceback is None:
            break
        frame = traceback.tb_frame
        if frame.f_code in handlers or (interrupted is not None and _is_given(frame, interrupted)):
            return True
        interrupted = frame
        traceback = traceback.tb_next
    return False


def _is_given(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether a function was called with the frame below its own, as signal handlers of every kind are."""
    code = frame.f_code
    takes_two = code.co_argcount > 1 or code.co_flags & _HAS_ARGS
    if not code.co_flags & _IS_FUNCTION or not takes_two or code.co_nlocals > _MOST_VARIABLES:
        return False  # of a class, the variables may be an object of the host's; of many, a copy would stay
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & _HAS_ARGS)]
    variables = frame.f_locals
    values = [variables.get(name) for name in names]
    return any(part is interrupted for value in values for part in (value[-1:] if type(value) is tuple else (value,)))


def _signal_handlers() -> set[CodeType]:
    """Return the code of the signal handlers, and of the functions that they refer to."""
    import _signal as signal  # type: ignore[import-not-found]  # the built-in half of `signal`, in every interpreter
    from gc import get_referents

    found = set()
    for number in range(1, signal.NSIG):
        try:
            handler = signal.getsignal(number)
        except Exception:  # noqa: S112 - nothing to say
            continue  # a number that this system does not have, or an odd handler
        calls = [_namespace(base).get("__call__") for base in _mro(type(handler))]
        found |= {part.__code__ for part in (handler, *get_referents(handler), *calls) if type(part) is _FUNCTION}
    return found
