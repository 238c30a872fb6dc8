"""The options of `Telemetry` and `TelemetryClient`: their allowed values, and the error that names them.

Runs in the host, where one of the two is made. A wrong option is a mistake in the host's own code, so it raises there.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["DEFAULT_QUEUE_SIZE", "check"]

DEFAULT_QUEUE_SIZE = 256
"""Events that wait in the host at most; one more is dropped and counted."""

_LONGEST = 1e9  # seconds; JSON has no infinity to tell the sender
_ENDPOINTS = ("auto", "capture", "batch")
_PROTOCOLS = ("v0", "v1")


def _is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _is_number(least: float, most: float = float("inf"), kinds: Any = (int, float)) -> Callable[[Any], bool]:  # noqa: ANN401
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most


def _are_names(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(one, str) for one in value)


def _are_run_properties(value: object) -> bool:
    if value is None or value == ():
        return True
    return isinstance(value, (tuple, list)) and all(name in _run_properties() for name in value)


def _run_properties() -> tuple[str, ...]:
    from atotelemetry.facts.run import KNOWN_PROPERTIES  # an import that a client without run properties does not need

    return ("app_version", *KNOWN_PROPERTIES)  # the first one is `atopile_version` of other applications


def _is_duration(value: object) -> bool:
    return _is_number(0, _LONGEST)(value) and value != 0


_NONE = type(None)
_BOOL = (_is_a(bool), "True or False")
_BOOL_OR_NONE = (_is_a(bool, _NONE), "True, False or None")
_FUNCTION = (lambda value: value is None or callable(value), "a function")
_TEXT_OR_NONE = (_is_a(str, _NONE), "a text")
_SECONDS = (_is_duration, "a positive number of seconds")

# In the order in which they are looked at.
_RULES: dict[str, tuple[Callable[[Any], bool], str | Callable[[], str]]] = {
    "app": (_is_a(str), "a text"),
    "app_version": _TEXT_OR_NONE,
    "api_key": _TEXT_OR_NONE,  # None: an unset environment variable, so telemetry is off
    "host": _TEXT_OR_NONE,
    "endpoint": (lambda value: value in _ENDPOINTS, f"one of {', '.join(_ENDPOINTS)}"),
    "protocol": (lambda value: value in _PROTOCOLS, f"one of {', '.join(_PROTOCOLS)}"),
    "queue_size": (_is_number(1, kinds=int), "a whole number from 1"),
    "max_retries": (_is_number(0, kinds=int), "a whole number from 0"),
    "request_timeout": _SECONDS,
    "sender_deadline": _SECONDS,
    "before_send": _FUNCTION,
    "on_error": _FUNCTION,
    "identity": _FUNCTION,
    "compression": _BOOL_OR_NONE,
    "wait_for_delivery": _BOOL_OR_NONE,
    **dict.fromkeys(("disable_geoip", "historical_migration", "source_lines", "patient"), _BOOL),
    **dict.fromkeys(("in_ci", "report_uncaught"), _BOOL),
    "properties": (lambda value: value is None or hasattr(value, "keys"), "a dict"),
    "run_properties": (_are_run_properties, lambda: f"a tuple of {', '.join(_run_properties())}"),
    "in_app": (_are_names, "a tuple of names"),
    "scrub": (lambda value: isinstance(value, bool) or _are_names(value), "True, False or a tuple of names"),
    "notice": (_is_a(type(...), _NONE, bool, str), "True, a text or None"),
    "ignore": (lambda value: type(value) is tuple and all(map(_is_a(type), value)), "classes, as a tuple"),
    "report_crash": (
        lambda value: isinstance(value, bool) or (isinstance(value, str) and value != ""),
        "True, False or the name of an event",
    ),
    "report_hang_after": (lambda value: value is None or _is_duration(value), "a positive number of seconds, or None"),
    "sample_rate": (_is_number(0, 1), "a number from 0 to 1"),
}


def check(**options: object) -> None:
    """Raise ValueError for the first wrong option."""
    for name, (is_right, allowed) in _RULES.items():
        if name in options and not is_right(options[name]):
            meant = allowed if isinstance(allowed, str) else allowed()
            raise ValueError(f"{name} must be {meant}, not {options[name]!r}")
