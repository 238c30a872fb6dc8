"""`atotelemetry status`, `enable` and `disable`: see and change one's own answer, in words.

Runs in its own process, for a person or a script. `status` shows whether the next run is measured, and why;
`enable` and `disable` edit the file, and say so when a variable of the environment decides otherwise. Nothing here
sends anything, and the key is never printed.
"""

from __future__ import annotations

import errno
import sys

from atotelemetry.facts.address import ATOPILE_HOST
from atotelemetry.facts.text import printable
from atotelemetry.host import status as host_status
from atotelemetry.host.choice import is_app_name
from atotelemetry.host.status import choose, status_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import TextIO

    from atotelemetry.host.status import Report

__all__ = [
    "add_choice_arguments",
    "add_disable_arguments",
    "add_enable_arguments",
    "add_status_arguments",
    "app_name",
    "is_broken_pipe",
    "is_text",
    "run_disable",
    "run_enable",
    "run_status",
    "say",
    "status",
]


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `atotelemetry status` to `parser`."""
    add_choice_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `atotelemetry enable` and `atotelemetry disable` to `parser`."""
    parser.add_argument(
        "--app", type=app_name, default="atopile", metavar="NAME", help="the program that is meant (default: atopile)"
    )


add_enable_arguments = add_disable_arguments = add_choice_arguments


def run_status(args: argparse.Namespace) -> int:
    """Print whether runs are measured, why, under which id, and the last known delivery; return 0."""
    found = status(args.app)
    if args.json:
        import json

        say(json.dumps(found, indent=2))
    else:
        say(status_text(found))
    return 0


def run_enable(args: argparse.Namespace) -> int:
    """Make the file say yes; return 0, or 1 when that could not be written."""
    return answer(choose(args.app, enabled=True, notice=has_notice(args.app)))


def run_disable(args: argparse.Namespace) -> int:
    """Make the file say no; return 0, or 1 when that could not be written."""
    return answer(choose(args.app, enabled=False, notice=has_notice(args.app)))


def status(app: str) -> dict[str, object]:
    """Return the facts behind `atotelemetry status --json` for `app`. Its own settings are not known here."""
    endpoint = ATOPILE_HOST if app == "atopile" else ""
    return host_status.status(app, endpoint=endpoint, notice=has_notice(app))


def has_notice(app: str) -> bool:
    """Whether `app` prints a notice before its first event, if it leaves that at the default."""
    return app != "atopile"


def answer(report: Report) -> int:
    """Print a report, on stderr if it failed, and return its exit code."""
    say(report.text, sys.stderr if report.exit_code else None)
    return report.exit_code


def app_name(text: str) -> str:
    """Return the name of a program, for argparse."""
    if not is_app_name(text):
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a program")
    return text


def is_text(text: str) -> bool:
    """Whether JSON can hold an argument or variable: its bytes were text in the person's encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text for people. Control characters, and letters that the encoding lacks, are escaped."""
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    stream.write(printable(text, keep="\n").encode(encoding, "backslashreplace").decode(encoding) + "\n")


def is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of our output is gone. The C library of Windows calls that an invalid argument."""
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)
