"""`atotelemetry show`: the exact requests of a run in this directory, values included. It sends nothing.

Runs in its own process, for a person. The real `Telemetry` captures the events; its lines are diverted. A real sender
makes the bodies; it prints them instead of sending. No file is created, and the project's key is not shown.
"""

from __future__ import annotations

import os
import sys

from atotelemetry.command.consent import app_name, is_text, say, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from atotelemetry.host.telemetry import Telemetry

__all__ = ["add_options", "add_show_arguments", "run_show", "show"]

_KEY = "(the project's key)"
_NOWHERE = "http://unknown.invalid"
_NEW_ID = "(a random id, made at the first run)"
# The most that the sender may take; it gives git three seconds.
_PATIENCE = 30.0


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `show` on its parser."""
    parser.add_argument(
        "--app",
        type=_app,
        default="atopile",
        metavar="NAME",
        help="the program that is meant (default: atopile); module:name is its Telemetry, with all of its settings",
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `show` where the application is known."""
    parser.add_argument("--exception", action="store_true", help="show an exception, too")
    parser.add_argument("--crash", action="store_true", help="show the report of a native crash, too (report_crash)")
    parser.add_argument("--json", action="store_true", help="print only the request's exact body, on one line")


def run_show(args: argparse.Namespace) -> int:
    """Print the requests of a run; return 0, 1 (a run here could send nothing) or 2 (no such program)."""
    from atotelemetry.host.telemetry import Telemetry

    if ":" not in args.app:
        return _show(Telemetry(app=args.app), status(args.app), args)
    try:
        telemetry = _imported(args.app)
    except Exception as error:  # the import runs the program's own code
        say(f"{args.app} cannot be imported: {type(error).__name__}: {error}", sys.stderr)
        return 2
    return show(telemetry, args)


def show(telemetry: Telemetry, args: argparse.Namespace) -> int:
    """Print the requests of `telemetry`, which goes on as it is; `args` are the options of `add_options`.

    Returns 0, or 1 when a run here could send nothing.
    """
    return _show(type(telemetry)(**telemetry.made_with), telemetry.known(), args)


def _show(telemetry: Telemetry, known: dict[str, object], args: argparse.Namespace) -> int:
    # `telemetry` is used up: its events go nowhere from here on.
    try:
        bodies = _bodies(_stream(telemetry, known["id"], with_exception=args.exception, with_crash=args.crash))
    except _NothingToShow as reason:
        say(f"a run in this directory would send nothing: {reason}", sys.stderr)
        return 1
    if args.json:
        if known["telemetry"] != "on":
            words = {"log": "only shows events on stderr", "waiting": "is not on yet"}
            what = words.get(str(known["telemetry"]), "is off")
            say(f"telemetry {what}, nothing of this would be sent: {known['reason']}", sys.stderr)
        sys.stdout.flush()
        # Bytes, since "exact" must not depend on the terminal's encoding.
        sys.stdout.buffer.write(b"".join(body + b"\n" for body in bodies))
        return 0
    for line in _preface(telemetry.app, known):
        say(line)
    for body in bodies:
        say("")
        say(_pretty(body))
    return 0


def _app(text: str) -> str:
    return text if ":" in text else app_name(text)


def _imported(text: str) -> Telemetry:
    """Return the `Telemetry` at `module:name`. Raises whatever the import raises."""
    from importlib import import_module

    from atotelemetry.host.telemetry import Telemetry

    module, _, path = text.partition(":")
    sys.path.insert(0, os.getcwd())  # as `python -m` has it
    found: object = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    if not isinstance(found, Telemetry):
        raise TypeError(f"it is no Telemetry, but {type(found).__name__}")
    return found


class _NothingToShow(Exception):
    """Why there is nothing; its text is for people."""


def _stream(telemetry: Telemetry, known_id: object, *, with_exception: bool, with_crash: bool) -> bytes:
    """Return a run's stream to its sender: hello, a start and an end event, perhaps an exception, end."""
    from atotelemetry.host.divert import divert

    client = telemetry.client
    if not is_text(client.host):
        raise _NothingToShow(f"the server's address cannot be read as text: {client.host!r}")
    lines: list[bytes] = []
    divert(client, lines.append)
    # Otherwise the first event would create the file, as it does in the first real run.
    telemetry.go_by(str(known_id or _NEW_ID))
    stream = client.stream
    stream.settings["api_key"] = _KEY
    stream.settings["host"] = client.host or _NOWHERE  # only the program itself knows it; it is not in the body
    name = "build" if telemetry.app == "atopile" else "run"
    with telemetry.capture(f"cli:{name}_start", f"cli:{name}_end"):
        pass
    if with_exception:
        try:
            _fail()
        except ValueError as error:
            telemetry.capture_exception(error)
    if with_crash:
        lines.append(_crash())
    return b"\n".join([stream.hello(), *lines, stream.end(client.counts), b""])


def _fail() -> None:
    raise ValueError(f"an example, with a path in {os.path.expanduser('~/project')} and password=example")


def _crash() -> bytes:
    """Return the text that faulthandler would write if this process crashed here."""
    import faulthandler
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(b"Fatal Python error: Segmentation fault\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=False)
        file.seek(0)
        return file.read().rstrip()


def _bodies(stream: bytes) -> list[bytes]:
    """Return the body of each request that a sender makes of `stream`."""
    import subprocess

    from atotelemetry.host.spawn import CannotSpawn, import_path, sender_environment

    environ = os.environ.copy()
    environ.pop("ATO_TELEMETRY_LOG", None)  # nothing is delivered, so nothing is logged as a delivery
    try:
        environment = sender_environment(environ, import_path())
    except CannotSpawn as error:
        raise _NothingToShow(str(error)) from None
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-S", "-m", "atotelemetry.sender", "--dry-run"],
            input=stream,
            capture_output=True,
            env=environment,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NothingToShow(f"the sender could not be run: {error}") from None
    if done.returncode != 0 or not done.stdout:
        raise _NothingToShow(f"the sender failed: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout.rstrip(b"\n").split(b"\n")


def _preface(app: str, known: dict[str, object]) -> list[str]:
    """Return the lines above the body: whether and where it would be sent, and its placeholders."""
    state, when = {
        "off": ("is off: ", "If it were on, a"),
        "log": ("only shows events on stderr: ", "If it were on, a"),
        "waiting": ("is ", "After that, a"),
    }.get(str(known["telemetry"]), ("is on: ", "A"))
    lines = [
        f"Telemetry {state}{known['reason']}.",
        f"{when} run in this directory would send this to {known['endpoint'] or f'the server that {app} names'}:",
        "- the body of one request, to /batch/; events that come apart in time go alone, to /capture/",
        f"- {app} chooses the events' names, and may add properties or leave some out",
    ]
    if not known["id"]:
        lines.append("- there is no id yet: a random one is made and kept at the first run")
    if not known["api_key_set"] and not known["api_key_built_in"]:
        lines.append(f"- {known['api_key_variable']} is not set: without a key of its own {app} sends nothing")
    lines.append("None of this was sent.")
    return lines


def _pretty(body: bytes) -> str:
    import json

    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)  # `say` escapes the rest
