"""The command and the option names of a run, read from click, typer and argparse. Imports none of them.

Runs in the host, on the thread that runs `Telemetry.run`. During a run, click's stack of contexts and argparse's
`parse_known_args` are replaced by ones that remember. Only frameworks loaded at its beginning are followed. Unreadable
parts are left out.

Values never leave: only names that the program declared as commands or options do.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident

from atotelemetry.host.debug import debug
from atotelemetry.host.interrupts import is_for_the_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["CommandLine"]

_CLICKS = ("click", "typer._click")  # typer has a copy of its own

# argparse's function is ours while any run follows it. Runs may overlap, on threads or as tasks.
_following: list[CommandLine] = []
_replaced: list[tuple[Any, Any]] = []  # argparse's function and ours, if ours is in place
# Never waited for: a fork may have copied it while another thread held it. Without it nothing is changed.
_changing = allocate_lock()


class CommandLine:
    """Follows the frameworks on this thread, from its making to `stop`."""

    def __init__(self) -> None:
        self._context: Any = None  # click's innermost
        self._parsed: tuple[Any, list[str]] | None = None  # argparse's outermost parser, and its arguments
        self._thread = get_ident()
        self._is_parsing = False
        self._undo: list[Callable[[], None]] = []
        for name in _CLICKS:
            _try(self._follow_click, getattr(sys.modules.get(f"{name}.globals"), "_local", None))
        self.is_inside = self._context is not None
        """Whether a command of click or typer was running already."""
        _try(self._follow_argparse, getattr(sys.modules.get("argparse"), "ArgumentParser", None))

    def properties(self) -> dict[str, Any]:
        """Return `command` and `options` as far as they are known now. Never raises."""
        known = None
        if self._context is not None:
            known = _try(_of_click, self._context)
        elif self._parsed is not None:
            known = _try(_of_argparse, *self._parsed)
        return known or {}

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

    def hears(self, parser: Any, arguments: list[str]) -> bool:
        """Remember a parser's arguments; False on another thread, and for the subparsers that a parser calls."""
        if get_ident() != self._thread or self._is_parsing:
            return False
        self._parsed = parser, arguments
        self._is_parsing = True
        return True

    def parsed(self) -> None:
        """Be told that the parser is done."""
        self._is_parsing = False


def _listening(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return argparse's `parse_known_args` with the runs that follow it listening."""

    def parse_known_args(parser: Any, args: Any = None, namespace: Any = None) -> Any:
        if not _following:
            return before(parser, args, namespace)
        args = list(sys.argv[1:] if args is None else args)  # as argparse does
        heard = [one for one in list(_following) if one.hears(parser, list(args))]
        try:
            return before(parser, args, namespace)
        finally:
            for one in heard:
                one.parsed()

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
    try:
        return function(*arguments)
    except BaseException as error:
        if is_for_the_host(error):
            raise
        debug("the command line cannot be read: %r", error)
        return None


def _of_click(context: Any) -> dict[str, Any]:
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
    names = [str(one.command.name) for one in contexts[1:]]
    return {"command": " ".join(names), "options": options}


def _of_argparse(parser: Any, arguments: list[str]) -> dict[str, Any]:
    names: list[str] = []
    options: list[str] = []
    positionals = _positionals(parser)
    waiting = list(reversed(arguments))
    while waiting:
        token = waiting.pop()
        if token == "--":  # noqa: S105 - no password
            break
        if len(token) > 1 and token[0] in parser.prefix_chars:
            action = None
            for action in _options(parser, token):
                options.append(max(action.option_strings, key=len))
            if action is not None and "=" not in token and token in parser._option_string_actions:  # noqa: SLF001
                _skip_values(action.nargs, waiting, parser.prefix_chars)
            continue
        action = positionals.pop(0) if positionals else None
        if action is None:
            continue
        if action.nargs in ("*", "+"):  # as many as there are, until a command
            positionals.insert(0, action)
            if len(positionals) == 1 or token not in (positionals[1].choices or ()):
                continue
            action = positionals[1]
        elif isinstance(action.nargs, int):
            del waiting[max(len(waiting) - action.nargs + 1, 0) :]
        commands = action.choices if _is_commands(action) else {}
        if token in commands:
            parser = commands[token]
            # Of a command with aliases, its first name.
            names.append(next(name for name, other in commands.items() if other is parser))
            positionals = _positionals(parser)
    return {"command": " ".join(names), "options": options}


def _positionals(parser: Any) -> list[Any]:
    return [action for action in parser._actions if not action.option_strings]  # noqa: SLF001 - nothing public says it


def _is_commands(action: Any) -> bool:
    return isinstance(action.choices, dict) and all(hasattr(one, "_actions") for one in action.choices.values())


def _options(parser: Any, token: str) -> Iterator[Any]:
    """Yield the declared options in one argument: `--name`, `--name=value`, `--na`, `-n`, `-nvalue`, `-abc`."""
    known = parser._option_string_actions  # noqa: SLF001
    name = token.partition("=")[0]
    if name in known:
        yield known[name]
        return
    if token[1] in parser.prefix_chars:
        found = {id(known[one]): known[one] for one in known if one.startswith(name)}
        if len(found) == 1 and parser.allow_abbrev:
            yield from found.values()
        return
    for letter in token[1:]:
        action = known.get(token[0] + letter)
        if action is None:
            return
        yield action
        if action.nargs != 0:
            return


def _skip_values(nargs: Any, waiting: list[str], prefix_chars: str) -> None:
    """Take the values of an option from the end of `waiting`."""
    most = 1 if nargs in (None, "?") else nargs if isinstance(nargs, int) else len(waiting)
    while most and waiting and (nargs == "..." or waiting[-1][:1] not in prefix_chars or len(waiting[-1]) == 1):
        waiting.pop()
        most -= 1
