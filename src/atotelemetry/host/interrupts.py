"""Which exceptions are meant for the host although they arrive in the middle of our code.

Runs in the host, on any thread, once something was raised that is no `Exception`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

__all__ = ["is_for_the_host"]

_traceback = BaseException.__dict__["__traceback__"].__get__  # a class of the host's may have another attribute there


def is_for_the_host(error: BaseException) -> bool:
    """Whether `error` is Ctrl-C, or was raised by a signal handler of the host's (`sys.exit` at SIGTERM).

    Any other exception in our code was raised by a value of the host's, and ends here.
    """
    kind = type(error)
    if issubclass(kind, Exception):
        return False
    if issubclass(kind, KeyboardInterrupt):
        return True
    handlers = _signal_handlers()
    traceback = _traceback(error)
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def _signal_handlers() -> set[CodeType]:
    import _signal as signal  # type: ignore[import-not-found]  # the built-in half of `signal`, in every interpreter

    found = set()
    for number in range(1, signal.NSIG):
        try:
            code = getattr(signal.getsignal(number), "__code__", None)
        except Exception:  # noqa: S112 - nothing to say
            continue  # a number that this system does not have, or an odd handler
        if type(code) is type(_signal_handlers.__code__):
            found.add(code)
    return found
