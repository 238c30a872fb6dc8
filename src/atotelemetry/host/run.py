"""One run of a program: an event at its beginning and one at its end, with command line and exit code.

Runs in the host, on the thread that runs `Telemetry.run`. The command line is that of click, typer or argparse; none of
them is imported here. During a run, click's stack of contexts and argparse's `parse_known_args` are replaced by ones
that remember. Only frameworks loaded at its beginning are followed. Unreadable parts are left out.

Values never leave: only names that the program declared as commands or options do.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock, get_ident

from atotelemetry.host.block import Capture, named, place
from atotelemetry.host.debug import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Run"]

_CLICKS = ("click", "typer._click")  # typer has a copy of its own

# argparse's function is ours while any run follows it. Runs may overlap, on threads or as tasks.
_following: list[CommandLine] = []
_replaced: list[tuple[Any, Any]] = []  # argparse's function and ours, if ours is in place
# Never waited for: a fork may have copied it while another thread held it. Without it nothing is changed.
_changing = allocate_lock()


class Run(Capture):
    """A context manager and a decorator around a whole program. See `Telemetry.run`.

    Args:
        outcome: returns `exit_code` and `outcome` for an exit; None for a failure.
        is_off: whether nothing is captured.
        given: as for `Capture`. `left` is called for failures only.

    """

    def __init__(
        self, outcome: Callable[[BaseException], dict[str, Any] | None], is_off: Callable[[], bool], *given: Any
    ) -> None:
        super().__init__(*given)
        self._outcome = outcome
        self._is_off = is_off

    def _begin(self, block: dict[str, Any]) -> tuple[Any, ...]:
        start, end = named(self._start), named(self._end)
        line = None if self._is_off() else CommandLine()
        self._event(start, (line and line.properties(), self._properties), None)
        return end, time.perf_counter(), block, line, os.getpid()

    def _finish(
        self,
        error: BaseException | None,
        end: str,
        entered: float,
        block: dict[str, Any],
        line: CommandLine | None = None,
        process: int = 0,
    ) -> None:
        more: dict[str, Any] = {}
        if line is not None:
            line.stop()
            more = line.properties()
        properties = self._properties, block
        if error is None:
            code = block.get("exit_code", 0)
            more.update(exit_code=code, outcome="ok" if type(code) is int and code == 0 else "error")
        else:
            outcome = self._outcome(error)
            if outcome is None:
                self._left(error, end, properties, entered)
                outcome = {"exit_code": 1, "outcome": "error"}
            more.update(outcome)
        if os.getpid() == process:  # a child that was forked in the run and leaves it is not the run
            self._event(end, (more, *properties), entered)

    def returned(self, value: object) -> None:
        """Take a number that `main` returns for the exit code, as `sys.exit(main())` does. Click ignores it."""
        try:
            _, _, block, line, _ = self._entered[place()][-1] or (None,) * 5
            if type(value) is int and line is not None and not line.is_inside:
                block.setdefault("exit_code", value)
        except (RecursionError, LookupError):
            pass  # the end of the stack, or the run was left before


class CommandLine:
    """Follows the frameworks on this thread, from its making to `stop`."""

    def __init__(self) -> None:
        self._context: Any = None  # click's innermost
        # argparse's commands and options, once an outermost parser has begun.
        self._parsed: tuple[list[str], list[str]] | None = None
        self.thread = get_ident()
        self.is_parsing = False
        self._undo: list[Callable[[], None]] = []
        for name in _CLICKS:
            _try(self._follow_click, getattr(sys.modules.get(f"{name}.globals"), "_local", None))
        self.is_inside = self._context is not None
        """Whether a command of click or typer was running already."""
        _try(self._follow_argparse, getattr(sys.modules.get("argparse"), "ArgumentParser", None))

    def properties(self) -> dict[str, Any]:
        """Return `command` and `options` as far as they are known now. Never raises."""
        known = self._parsed if self._context is None else _try(_of_click, self._context)
        return {"command": " ".join(known[0]), "options": list(known[1])} if known else {}

    def stop(self) -> None:
        """Leave the frameworks as they were. Never raises."""
        while self._undo:
            _try(self._undo.pop())

    # ---- click and typer

    def _follow_click(self, local: Any) -> None:
        variables = getattr(local, "__dict__", None)  # this thread's
        if variables is None:
            return
        before = variables.get("stack")
        contexts = _Contexts(before or ())
        for context in contexts:
            self._enter_context(context)
        contexts.entered = self._enter_context
        variables["stack"] = contexts

        def undo() -> None:
            contexts.entered = None
            # Another thread has another dict. A list that replaced ours meanwhile stays.
            if local.__dict__.get("stack") is contexts:
                # That of a run that overlapped and has ended goes, too.
                is_over = before is None or (type(before) is _Contexts and before.entered is None)
                after = [] if is_over else before
                after[:] = contexts
                local.__dict__["stack"] = after

        self._undo.append(undo)

    def _enter_context(self, context: Any) -> None:
        """Remember `context` if it belongs to a subcommand of the last one. A command may also call others."""
        last = self._context
        if context.resilient_parsing:
            return  # for completion
        if last is None or (context.parent is last and hasattr(last.command, "resolve_command")):
            self._context = context

    # ---- argparse

    def _follow_argparse(self, parser_class: Any) -> None:
        if parser_class is None or not _changing.acquire(blocking=False):
            return
        try:
            if not _replaced:
                before = parser_class.__dict__["parse_known_args"]
                _replaced.append((before, _listening(before)))
                parser_class.parse_known_args = _replaced[0][1]
            _following.append(self)
        finally:
            _changing.release()

        def undo() -> None:
            _following.remove(self)
            if _following or not _changing.acquire(blocking=False):
                return
            try:
                # Where another library built on ours, ours stays, and calls argparse's.
                if not _following and _replaced and parser_class.__dict__["parse_known_args"] is _replaced[0][1]:
                    parser_class.parse_known_args = _replaced.pop()[0]
            finally:
                _changing.release()

        self._undo.append(undo)

    def begin(self) -> None:
        """Forget an earlier parser: one begins that no other one calls."""
        self._parsed = [], []
        self.is_parsing = True

    def take(self, action: Any, strings: list[str]) -> None:
        """Note an option or a command that argparse has read."""
        commands, options = self._parsed or ([], [])
        if action.option_strings:
            options.append(max(action.option_strings, key=len))
        elif strings and isinstance(action.choices, dict):
            parser = action.choices.get(strings[0])
            # Of a command with aliases, its first name.
            commands += [name for name, one in action.choices.items() if one is parser and hasattr(one, "_actions")][:1]


def _listening(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return argparse's `parse_known_args` with the runs that follow it listening."""

    def parse_known_args(parser: Any, args: Any = None, namespace: Any = None) -> Any:
        listening = [one for one in list(_following) if one.thread == get_ident()]
        # argparse calls it for each option and argument that it has read. Nothing public tells them.
        get_values = getattr(parser, "_get_values", None)
        if not listening or not get_values or "_get_values" in vars(parser):
            return before(parser, args, namespace)

        def take_values(*given: Any) -> Any:
            for one in listening:
                _try(one.take, *given)
            return get_values(*given)

        outermost = [one for one in listening if not one.is_parsing]
        for one in outermost:
            one.begin()
        parser._get_values = take_values  # noqa: SLF001 - as above
        try:
            return before(parser, args, namespace)
        finally:
            del parser._get_values  # noqa: SLF001
            for one in outermost:
                one.is_parsing = False

    parse_known_args.__doc__ = before.__doc__
    return parse_known_args


class _Contexts(list):  # type: ignore[type-arg] # `typing` costs a host milliseconds
    """A stack of click's that reports each new context."""

    entered: Callable[[Any], None] | None = None

    def append(self, context: Any) -> None:
        list.append(self, context)
        if self.entered is not None:
            _try(self.entered, context)


def _try(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that looks at a framework. Another version, or the program's own class, may raise."""
    return attempt(function, *arguments, default=None, why="the command line cannot be read: %r")


def _of_click(context: Any) -> tuple[list[str], list[str]]:
    contexts: list[Any] = []
    while context is not None:
        contexts.insert(0, context)
        context = context.parent
    options = []
    for one in contexts:
        for parameter in one.command.get_params(one):
            source = one.get_parameter_source(parameter.name)
            if parameter.param_type_name == "option" and getattr(source, "name", "") == "COMMANDLINE":
                options.append(max(parameter.opts, key=len))
    # A program without subcommands has no command path.
    return [str(one.command.name) for one in contexts[1:]], options
