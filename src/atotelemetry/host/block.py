"""Captures the beginning and the end of a block: a context manager, and a decorator.

Runs in the host, on the thread that runs the block. It is given two functions that capture and knows no `Telemetry`.
"""

from __future__ import annotations

import sys
import time

from atotelemetry.host.debug import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Any, Literal, ParamSpec, TypeVar

    Parameters = ParamSpec("Parameters")
    Result = TypeVar("Result")

__all__ = ["Capture", "named", "place"]

# Flags of a code object: the `inspect` module's CO_COROUTINE and CO_ITERABLE_COROUTINE, CO_GENERATOR, and
# CO_ASYNC_GENERATOR.
_COROUTINE, _GENERATOR, _ASYNC_GENERATOR = 0x80 | 0x100, 0x20, 0x200


class Capture:
    """A context manager and a decorator that captures two events. It may be entered again, also inside itself.

    Args:
        event: captures an event, given its name, the parts of its properties, and its beginning (None is now).
        left: captures the end by an exception, given the exception, the name of the end event, the parts, and the
            block's beginning.
        start: the name of the event on entering, or a function that returns it, called on entering.
        end: the name of the event on leaving, likewise.
        properties: of both events, with their values at each.

    """

    def __init__(
        self,
        event: Callable[..., object],
        left: Callable[[BaseException, str, tuple[Mapping[str, Any] | None, ...], float], object],
        start: str | Callable[[], str],
        end: str | Callable[[], str],
        properties: Mapping[str, Any] | None,
    ) -> None:
        self._event = event
        self._left = left
        self._start = start
        self._end = end
        self._properties = properties
        # By place: the arguments of `_finish` for each block that was entered and not left.
        self._entered: dict[int, list[tuple[Any, ...] | None]] = {}

    def __enter__(self) -> dict[str, Any]:
        """Return a dict; its values are on the event on leaving, too, and win over `properties`."""
        block: dict[str, Any] = {}
        frame, entry = 0, None
        try:
            frame = place()
            entry = self._begin(block)
        except RecursionError:
            pass  # the end of the stack: not even a loss can be counted
        # Without a call, such as `append`.
        if frame in self._entered:
            self._entered[frame] += [entry]
        else:
            self._entered[frame] = [entry]
        return block

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        frame = 0
        try:
            frame = place()
        except RecursionError:
            pass
        try:
            if frame not in self._entered:  # entered in one function and left in another
                frame = [*self._entered][-1]
            entries = self._entered[frame]
            entry = entries[-1]
            del entries[-1]
            if not entries:
                del self._entered[frame]
            if entry is not None:
                self._finish(error, *entry)
        except (RecursionError, LookupError):
            pass  # as above, or left more often than entered
        return False

    def _begin(self, block: dict[str, Any]) -> tuple[Any, ...]:
        """Capture the start event; return the arguments that `_finish` is given behind the exception."""
        start, end = named(self._start), named(self._end)
        self._event(start, (self._properties,), None)
        # Start the clock after the event: a process's first event costs milliseconds.
        return end, time.perf_counter(), block

    def _finish(self, error: BaseException | None, end: str, entered: float, block: dict[str, Any]) -> None:
        properties = self._properties, block
        if error is None:
            self._event(end, properties, entered)
        else:
            self._left(error, end, properties, entered)

    def returned(self, value: object) -> None:
        """Take the result of a decorated function."""

    def __call__(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """Capture every call of `function`; for a coroutine or generator function, until its object ends."""
        from functools import partial, wraps  # programs with decorators have loaded it

        if isinstance(function, (staticmethod, classmethod)):  # still as it stands in the class
            return type(function)(self(function.__func__))

        target: Any = function
        if not callable(target):
            raise TypeError(f"a function is decorated, not {target!r}; names are given by keyword")
        body = function.func if isinstance(function, partial) else function
        # An object that can be called runs the code of its class.
        code = getattr(body, "__code__", None) or getattr(getattr(type(body), "__call__", None), "__code__", None)  # noqa: B004
        flags = getattr(code, "co_flags", 0)
        wrapper: Any
        if flags & _COROUTINE:

            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self:
                    value = await target(*args, **kwargs)
                    self.returned(value)
                    return value

        elif flags & _ASYNC_GENERATOR:

            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self:
                    # The `yield from` below has no counterpart in an async generator (PEP 525).
                    generator = target(*args, **kwargs)
                    step = generator.__anext__()
                    while True:
                        try:
                            value = await step
                        except StopAsyncIteration:
                            return
                        try:
                            step = generator.asend((yield value))
                        except GeneratorExit:
                            await generator.aclose()
                            raise
                        except BaseException as error:
                            step = generator.athrow(error)

        elif flags & _GENERATOR:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return (yield from target(*args, **kwargs))

        else:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self:
                    value = target(*args, **kwargs)
                    self.returned(value)
                    return value

        wrapped: Callable[Parameters, Result] = wraps(function)(wrapper)
        return wrapped


def place() -> int:
    """Return the id of the frame that enters or leaves a block; called by the function that it calls.

    So each thread, task and generator inside one object has a place of its own. Not the frame: that would keep its
    variables. Raises only `RecursionError`.
    """
    try:
        frame = sys._getframe(1).f_back  # noqa: SLF001 - the documented way to see one's callers
        while frame is not None and str.endswith(frame.f_code.co_filename, "contextlib.py"):  # an `ExitStack`, for it
            frame = frame.f_back
        return id(frame)
    except RecursionError:
        raise
    except Exception:
        return 0  # an audit hook of the host's refuses


def named(name: str | Callable[[], str]) -> str:
    """Return an event's name. An empty one is no event: it is dropped and counted."""
    return attempt(name, default="", why="an event has no name: %r") if callable(name) else name
