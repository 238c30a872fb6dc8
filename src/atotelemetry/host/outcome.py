"""The outcome of a block that ended with an exception: an exit of the program, or a failure.

Runs in the host, on the thread that captures, once an exception leaves a block. Frameworks are recognised by the module
and the name of a class, without an import.
"""

from __future__ import annotations

from atotelemetry.host.guarded import read, read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["exit_properties"]

# Typer has a copy of click of its own, `typer._click`.
_FRAMEWORKS = ("click", "typer", "asyncclick")
_PARSERS = (*_FRAMEWORKS, "argparse")
_CANCELLED = (("asyncio", "CancelledError"), ("concurrent", "CancelledError"), ("trio", "Cancelled"))

_INTERRUPTED_CODE = 130  # 128 + SIGINT, as a shell says it
_USAGE_CODE = 2


def exit_properties(error: BaseException, ignore: Sequence[type[BaseException]] = ()) -> dict[str, Any] | None:
    """Return `exit_code` and `outcome` for an end event; None when `error` is a failure.

    The outcome is "ok", "error", "interrupted" (Ctrl-C), "usage" (a person's mistake), or "cancelled" without a code.
    `ignore` are further classes that are no failures. Never raises.
    """
    kind = type(error)
    if issubclass(kind, SystemExit):
        return _of_system_exit(error)
    if issubclass(kind, KeyboardInterrupt):
        return _exit(_INTERRUPTED_CODE, "interrupted")
    if issubclass(kind, GeneratorExit):
        return {"outcome": "cancelled"}
    for top, name in _names(kind):
        if (top, name) in _CANCELLED:
            return {"outcome": "cancelled"}
        if top in _FRAMEWORKS:
            if name == "Exit":
                return _exit(_code_of(error, 0))
            if name == "Abort":
                return _exit(1, "interrupted")
            if name == "ClickException":  # a UsageError is one, too
                return _exit(_code_of(error, 1), "usage")
    if any(issubclass(kind, ignored) for ignored in ignore):
        return _exit(_code_of(error, 1), "error")
    return None


def _of_system_exit(error: BaseException) -> dict[str, Any]:
    code = read(error, "code", default=None)
    if code is None:
        return _exit(0)
    if not isinstance(code, int):
        return _exit(1)  # a text, which the interpreter prints
    code = int(code)
    if code == _INTERRUPTED_CODE:
        return _exit(code, "interrupted")
    # Typer, and click before 8.4, leave with SystemExit while they handle the exception that says why.
    reason = read(error, "__context__", default=None)
    if code and issubclass(type(reason), BaseException):
        names = [name for top, name in _names(type(reason)) if top in _FRAMEWORKS]
        if "Abort" in names:
            return _exit(code, "interrupted")
        if "ClickException" in names:
            return _exit(code, "usage")
    if code == _USAGE_CODE and _raised_in(error).partition(".")[0] in _PARSERS:
        return _exit(code, "usage")
    return _exit(code)


def _exit(code: int, outcome: str | None = None) -> dict[str, Any]:
    return {"exit_code": code, "outcome": outcome or ("error" if code else "ok")}


def _names(kind: type) -> list[tuple[str, str]]:
    """Return top-level package and name of a class and of its bases."""
    bases = type.__dict__["__mro__"].__get__(kind)
    return [
        ((read_text(base, "__module__") or "").partition(".")[0], read_text(base, "__name__") or "") for base in bases
    ]


def _code_of(error: BaseException, default: int) -> int:
    code = read(error, "exit_code", default=None)
    return int(code) if isinstance(code, int) else default


def _raised_in(error: BaseException) -> str:
    """Return the name of the module that raised `error`."""
    entry = BaseException.__dict__["__traceback__"].__get__(error)
    if entry is None:
        return ""
    while entry.tb_next is not None:
        entry = entry.tb_next
    module = dict.get(entry.tb_frame.f_globals, "__name__")
    return module if type(module) is str else ""
