"""A person's questions and choices about an application's telemetry, in words: status, enable, disable.

Runs in the host or in the `atotelemetry` command, when a person asks; no measured run loads it. The key is never
printed.
"""

from __future__ import annotations

import os
import time

from atotelemetry.facts import breaker
from atotelemetry.facts.address import fault_of_address, without_credentials
from atotelemetry.facts.text import environment_prefix, printable
from atotelemetry.host.choice import choice_path
from atotelemetry.host.consent import read_choice, read_consent
from atotelemetry.host.edit import write_choice

TYPE_CHECKING = False

__all__ = ["Report", "choose", "status", "status_text"]

# How much of the end of the log is searched for the last summary.
LOG_TAIL_BYTES = 64 * 1024
_SUMMARY = "done:"
_MODES = {
    "on": "on",
    "off": "off",
    "log": "log (events are shown on stderr, nothing is sent)",
    "waiting": "waiting for the notice (nothing is sent)",
}


class Report:
    """The answer to a person: `text` for the terminal, and the `exit_code` of a command that prints it."""

    __slots__ = ("exit_code", "text")

    def __init__(self, text: str, exit_code: int = 0) -> None:
        self.text = printable(text, keep="\n")
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Report(text={self.text!r}, exit_code={self.exit_code!r})"


def status(
    app: str, *, endpoint: str = "", has_key: bool = False, in_ci: bool = False, notice: bool = False
) -> dict[str, object]:
    """Return the facts about `app`'s telemetry, as `atotelemetry status --json` prints them. Never raises.

    `endpoint` and `has_key` are the program's own, which variables override; `in_ci` and `notice` as for
    `read_consent`. Writes nothing.
    """
    prefix = environment_prefix(app)
    consent = read_consent(app, in_ci=in_ci, notice=notice)
    # A variable's no is answered without the file, but the person may ask for its id.
    path = consent.path or choice_path(app)
    stored = read_choice(path)
    variable = f"{prefix}_SERVICES_TELEMETRY_URL"
    endpoint = os.environ.get(variable) or endpoint
    mode, reason = consent.mode, consent.reason
    fault = fault_of_address(endpoint) if endpoint else ""
    if fault and mode == "on":
        mode, reason = "off", f"{variable}: {fault}"
    advice = f"write `telemetry: true` or `telemetry: false` into {path}"
    log = os.environ.get(f"{prefix}_TELEMETRY_LOG") or os.environ.get("ATO_TELEMETRY_LOG") or None
    return {
        "app": app,
        "telemetry": mode,
        "enabled": mode in ("on", "log"),
        "reason": reason,
        "advice": advice if stored.state == "damaged" else None,
        "id": consent.id or stored.id,
        "file": path or None,
        "file_exists": stored.state != "missing",
        "endpoint": without_credentials(endpoint) if endpoint else None,
        "api_key_set": bool(os.environ.get(f"{prefix}_TELEMETRY_API_KEY")),
        "api_key_built_in": has_key,
        "api_key_variable": f"{prefix}_TELEMETRY_API_KEY",
        "log": log,
        "last_delivery": _last_summary(log) if log else None,
        "network": _network(app, endpoint) if endpoint and mode == "on" else None,
    }


def status_text(found: dict[str, object]) -> str:
    """Return the result of `status` as lines for a person."""
    app, key = found["app"], found["api_key_variable"]
    brings = f"{app} brings its own" if found["api_key_built_in"] else f"{app} may bring its own"
    file = found["file"] or "none: there is no home directory to keep one in"
    lines = [
        ("telemetry", _MODES[str(found["telemetry"])]),
        ("why", found["reason"]),
        ("advice", found["advice"]),
        ("id", found["id"] or "none yet"),
        ("file", file if found["file_exists"] or not found["file"] else f"{file} (does not exist)"),
        ("endpoint", found["endpoint"] or f"chosen by {app}"),
        ("key", f"set by {key}" if found["api_key_set"] else f"not set by {key}; {brings}"),
        ("log", found["log"] or "none"),
        ("last known delivery", found["last_delivery"] or "unknown"),
        ("network", found["network"]),
    ]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name + ':':<{width}}{value}" for name, value in lines if value)


def choose(app: str, *, enabled: bool, in_ci: bool = False, notice: bool = False) -> Report:
    """Make the person's file say yes or no. Report the change, or with exit code 1 the failure."""
    try:
        done = write_choice(app, enabled)
    except (OSError, ValueError) as error:
        return Report(f"telemetry was not {'enabled' if enabled else 'disabled'}: {error}", 1)
    consent = read_consent(app, in_ci=in_ci, notice=notice)
    if consent.mode == ("on" if enabled else "off"):
        return Report(done)
    return Report(f"{done}\nbut {consent.reason} decides here, so telemetry is {consent.mode} wherever that is set")


def _network(app: str, endpoint: str) -> str | None:
    """Return the state of the breaker, None while the network to the server works."""
    path = breaker.note_of(app, endpoint)
    failures = breaker.read(path)[0] if path else 0
    if not failures:
        return None
    times = f"the last {failures} senders" if failures > 1 else "the last sender"
    pause = breaker.pause_left(app, endpoint, time.time())
    then = f"no other starts for {pause:.0f} s" if pause else "the next run tries again"
    return f"{times} got no answer; {then} ({path})"


def _last_summary(path: str) -> str | None:
    """Return the last summary in the sender's log, or None."""
    # A named pipe would keep us waiting for a writer.
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            lines = file.read(LOG_TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return None
    return next((line.strip() for line in reversed(lines) if _SUMMARY in line), None)
