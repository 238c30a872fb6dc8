"""`atotelemetry test`: send one event as a run does, wait, and print the answer or the failure.

Runs in its own process, for a person. The event takes the way of every event: `Telemetry`, feeder, pipe, sender, HTTPS.
The printed lines come from the sender's log. The event does not tell its directory, and no file is created.
"""

from __future__ import annotations

import os
import sys
import time

from atotelemetry.command.consent import add_choice_arguments, say
from atotelemetry.facts.address import ATOPILE_HOST, fault_of_address, without_credentials
from atotelemetry.facts.text import environment_prefix, number_between
from atotelemetry.host.consent import read_consent

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Literal

__all__ = ["add_test_arguments", "run_test"]

_EVENT = "telemetry:test"
_LOG = "ATO_TELEMETRY_LOG"
# Beyond the sender's own deadline: to start it, and to see that it has ended.
_GRACE = 5.0
_REQUEST_TIMEOUT = 5.0


def add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `test` on its parser."""
    add_choice_arguments(parser)
    parser.add_argument("--host", type=_url, metavar="URL", help="base URL of the server (default: the program's own)")
    parser.add_argument("--api-key", metavar="KEY", help="the project's write-only key; there is none by default")
    parser.add_argument(
        "--protocol", choices=("v0", "v1"), default="v0", help="v1: the endpoint that gives a verdict (default v0)"
    )
    parser.add_argument(
        "--timeout",
        type=number_between(0.001, 600),
        default=15.0,
        metavar="SECONDS",
        help="give up after so long (default %(default)g)",
    )


def run_test(args: argparse.Namespace) -> int:
    """Send one event and report; return 0 when the server accepted it, otherwise 1."""
    prefix = environment_prefix(args.app)
    consent = read_consent(args.app, in_ci=True)  # a build server that calls this asks for it
    if consent.mode != "on":
        what = "is off" if consent.mode == "off" else "only shows events on stderr"
        return _nothing_sent(f"telemetry {what}: {consent.reason}")
    key = args.api_key or os.environ.get(f"{prefix}_TELEMETRY_API_KEY")
    if not key:
        return _nothing_sent(f"there is no key; give --api-key KEY or set {prefix}_TELEMETRY_API_KEY")
    host = args.host or os.environ.get(f"{prefix}_SERVICES_TELEMETRY_URL")
    if not host and args.app == "atopile":
        host = ATOPILE_HOST
    if not host:
        return _nothing_sent(f"there is no server; give --host URL or set {prefix}_SERVICES_TELEMETRY_URL")
    fault = fault_of_address(host)
    if fault:
        return _nothing_sent(f"{prefix}_SERVICES_TELEMETRY_URL: {fault}")
    return _send(args.app, consent.id, key, host, args.timeout, args.protocol)


def _send(app: str, known_id: str | None, key: str, host: str, timeout: float, protocol: Literal["v0", "v1"]) -> int:
    from tempfile import TemporaryDirectory

    from atotelemetry.host.telemetry import PH_API_ENDPOINT, Telemetry
    from atotelemetry.sender.batch import V1_PATH

    log, reasons = os.environ.get(_LOG), _host_log()
    prefix = environment_prefix(app)
    with TemporaryDirectory(prefix="atotelemetry-") as directory:
        log_path = os.path.join(directory, "log")
        # The options win over the person's variables. The sender inherits the log.
        os.environ.update(
            {f"{prefix}_TELEMETRY_API_KEY": key, f"{prefix}_SERVICES_TELEMETRY_URL": host, _LOG: log_path}
        )
        telemetry = Telemetry(
            app=app,
            run_properties=(),  # which of them this program sends is not known here
            in_ci=True,
            notice=None,  # the person is at the keyboard and asked for it
            protocol=protocol,
            sender_deadline=timeout,
            request_timeout=min(_REQUEST_TIMEOUT, timeout),
        )
        # Without an id PostHog makes no person of the event. The first real run makes and keeps one.
        telemetry.go_by(known_id or "")
        started = time.perf_counter()
        uuid = telemetry.capture_event(_EVENT, {"test": True})
        accepted = telemetry.flush(timeout + _GRACE, delivered=True) and uuid is not None
        seconds = time.perf_counter() - started
        said = _read(log_path)
    # Each line begins with a time and "sender[pid]". The summary only repeats the others.
    lines = [line.partition("] ")[2] for line in said.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if not line.startswith("done:")]
    where = f"{without_credentials(host).rstrip('/')}{PH_API_ENDPOINT if protocol == 'v0' else V1_PATH}"
    if accepted:
        say(f"delivered one event to {where}; it took {seconds:.2f} s, with the start of the sender")
        for line in [*lines, f"event {_EVENT}, uuid {uuid}"]:
            say(f"  {line}")
    else:
        say(f"not delivered to {where}; gave up after {seconds:.2f} s:", sys.stderr)
        for line in lines or [*reasons, "no sender could be started"]:
            say(f"  {line}", sys.stderr)
    if log:
        _append(log, said)
    return 0 if accepted else 1


def _host_log() -> list[str]:
    """Return a list that grows by each line that the host logs from now on."""
    import logging

    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("atotelemetry")
    logger.addHandler(Listener())
    logger.setLevel(logging.DEBUG)
    return lines


def _nothing_sent(reason: str) -> int:
    say(f"nothing was sent: {reason}", sys.stderr)
    return 1


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""  # no sender was there to write it


def _append(path: str, said: bytes) -> None:
    """Append the sender's words to the person's own log, where it would have written them."""
    # Without waiting, as the sender: a named pipe that nobody reads must not keep us.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags, 0o600), "ab") as file:
            file.write(said)
    except OSError as error:
        say(f"cannot write the log {path}: {error.strerror}", sys.stderr)


def _url(text: str) -> str:
    fault = fault_of_address(text)
    if fault:
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(fault)
    return text
