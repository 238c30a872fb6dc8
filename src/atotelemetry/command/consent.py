"""`atotelemetry status`, `enable` and `disable`: see and change one's own answer, in words.

Runs in its own process, for a person or a script. `status` shows what the next run would do and what decides it;
`enable` and `disable` edit the file, and say so when a variable of the environment decides otherwise. Nothing here
sends anything, and the key is never printed.
"""

from __future__ import annotations

import os
import sys

from atotelemetry.facts.address import fault_of_address, without_credentials
from atotelemetry.facts.text import printable
from atotelemetry.host.consent import environment_prefix, read_choice, read_consent
from atotelemetry.host.edit import write_choice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import TextIO

__all__ = [
    "DEFAULT_ENDPOINT",
    "add_choice_arguments",
    "add_status_arguments",
    "is_text",
    "run_disable",
    "run_enable",
    "run_status",
    "say",
    "status",
]

DEFAULT_ENDPOINT = "https://telemetry.atopileapi.com"
# How much of the end of the log is searched for the last summary.
LOG_TAIL_BYTES = 64 * 1024
_SUMMARY = "done:"


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `atotelemetry status` to `parser`."""
    add_choice_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `atotelemetry enable` and `atotelemetry disable` to `parser`."""
    parser.add_argument(
        "--app", type=_app_name, default="atopile", metavar="NAME", help="the program that is meant (default: atopile)"
    )


def run_status(args: argparse.Namespace) -> int:
    """Print whether runs are measured, why, under which id, and what is known about delivery; return 0."""
    found = status(args.app)
    if args.json:
        import json

        say(json.dumps(found, indent=2))
        return 0
    words = {"on": "on", "off": "off", "log": "log (events are shown on stderr, nothing is sent)"}
    file = found["file"] or "none: there is no home directory to keep one in"
    key = found["api_key_variable"]
    lines = [
        ("telemetry", words[str(found["telemetry"])]),
        ("why", found["reason"]),
        ("id", found["id"] or "none yet"),
        ("file", file if found["file_exists"] or not found["file"] else f"{file} (does not exist)"),
        ("endpoint", found["endpoint"] or f"chosen by {args.app}"),
        ("key", f"set by {key}" if found["api_key_set"] else f"not set by {key}; {args.app} may bring its own"),
        ("log", found["log"] or "none"),
        ("last known delivery", found["last_delivery"] or "unknown"),
    ]
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        say(f"{name + ':':<{width}}{value}")
    return 0


def run_enable(args: argparse.Namespace) -> int:
    """Make the file say yes; return 0, or 1 when that could not be written."""
    return _choose(args.app, enabled=True)


def run_disable(args: argparse.Namespace) -> int:
    """Make the file say no; return 0, or 1 when that could not be written."""
    return _choose(args.app, enabled=False)


def status(app: str = "atopile") -> dict[str, object]:
    """Return what `atotelemetry status --json` prints for `app`. Writes nothing, never raises."""
    environ = os.environ
    prefix = environment_prefix(app)
    consent = read_consent(app)
    # A variable that says no is answered without the file, but the person may ask for the id in it.
    stored = read_choice(consent.path)
    variable = f"{prefix}_SERVICES_TELEMETRY_URL"
    endpoint = environ.get(variable) or (DEFAULT_ENDPOINT if app == "atopile" else None)
    mode, reason = consent.mode, consent.reason
    fault = fault_of_address(endpoint) if endpoint else ""
    if fault and mode == "on":
        mode, reason = "off", f"{variable}: {fault}"
    log = environ.get("ATO_TELEMETRY_LOG") or None  # any sender looks at this one, whatever the app
    return {
        "app": app,
        "telemetry": mode,
        "enabled": mode != "off",
        "reason": reason,
        "id": consent.id or stored.id,
        "file": consent.path or None,
        "file_exists": stored.state != "missing",
        "endpoint": without_credentials(endpoint) if endpoint else None,
        "api_key_set": bool(environ.get(f"{prefix}_TELEMETRY_API_KEY")),
        "api_key_variable": f"{prefix}_TELEMETRY_API_KEY",
        "log": log,
        "last_delivery": _last_summary(log) if log else None,
    }


def _choose(app: str, *, enabled: bool) -> int:
    try:
        done = write_choice(app, enabled)
    except (OSError, ValueError) as error:
        say(f"telemetry was not {'enabled' if enabled else 'disabled'}: {error}", sys.stderr)
        return 1
    say(done)
    consent = read_consent(app)
    if consent.mode != ("on" if enabled else "off"):
        say(f"but {consent.reason} decides here, so telemetry is {consent.mode} wherever that is set", sys.stderr)
    return 0


def _last_summary(path: str) -> str | None:
    """Return the last line of the sender's log that sums up a delivery, None when there is none to be read."""
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


def _app_name(text: str) -> str:
    if not text.strip(". ") or any(separator in text for separator in "/\\\0") or not is_text(text):
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a program")
    return text


def is_text(text: str) -> bool:
    """Whether the bytes of an argument or variable were text in the person's encoding, so that JSON can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def say(text: str, stream: TextIO | None = None) -> None:
    """Print one text for people: nothing in it steers the terminal, and no letter is too much for its encoding."""
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    stream.write(printable(text, keep="\n").encode(encoding, "backslashreplace").decode(encoding) + "\n")
