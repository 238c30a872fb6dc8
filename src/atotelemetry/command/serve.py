"""`atotelemetry serve`: a local PostHog that prints a program's events as they arrive.

Runs in its own process, in the foreground, until Ctrl-C or SIGTERM. The main thread waits. The capture server's threads
show each request before they answer it, one at a time. Shown requests are forgotten, so memory does not grow.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from atotelemetry.facts.run import KNOWN_PROPERTIES
from atotelemetry.facts.text import number_between, printable, shortened

if TYPE_CHECKING:
    import argparse

    from atotelemetry.testing import RecordedRequest

__all__ = ["add_serve_arguments", "run_serve"]

_DEFAULT_PORT = 8000

_RUNS_KNOWN = 100
_LONGEST = 200  # of a property, unless `--verbose`
_COMMON = frozenset({"distinct_id", "run_id", "app_version", "sample_rate", "is_tty", "agent"})
_COMMON_PREFIXES = ("$lib", "$os", "$python", "$geoip", "$arch", "$app_", "$release_id")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}")

_BOLD, _DIM, _RED, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `serve` on its parser."""
    parser.add_argument(
        "--port",
        type=number_between(0, 65535, int),
        default=_DEFAULT_PORT,
        help="port on 127.0.0.1 (default %(default)s; 0 takes a free one)",
    )
    parser.add_argument("--protocol", choices=("v0", "v1"), help="speak only this one (default: both)")
    parser.add_argument(
        "--status",
        type=number_between(200, 599, int),
        default=200,
        help="answer every request with this HTTP status (default %(default)s)",
    )
    parser.add_argument(
        "--delay",
        type=number_between(0, 3600),
        default=0.0,
        metavar="SECONDS",
        help="wait so long before each answer (default 0)",
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="append each accepted event to FILE, one JSON object a line, as the sender reads",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print each event as one line of JSON, and nothing else")
    how.add_argument("--verbose", action="store_true", help="print every property of every event, whole")


def run_serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit code.

    0: ended by a signal; 2: the port is taken or the record cannot be written. Raises OSError when the reader of the
    output went away.
    """
    # Costs the `http` package, which `add_serve_arguments`, and so `--help` of every subcommand, does without.
    from atotelemetry.testing import Answer, CaptureServer

    if hasattr(sys.stdout, "reconfigure"):
        # Events may hold characters that this terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        record = open(args.record, "a", encoding="utf-8") if args.record else None  # noqa: SIM115  closed below
    except OSError as error:
        return _fail(f"cannot write {args.record}: {error.strerror or error}")
    with record or contextlib.nullcontext():
        display = _Display(sys.stdout, record, verbose=args.verbose, as_json=args.json)

        def show_and_forget(request: RecordedRequest) -> None:
            display.show(request)
            server.clear()

        server = CaptureServer(port=args.port, on_request=show_and_forget, protocol=args.protocol)
        server.respond(Answer(status=args.status, delay=args.delay))
        # SIGTERM ends it as Ctrl-C does. SIGINT stays as it is: ignored, when a shell started us in the background.
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.start()
            display.note(f"Listening on {server.url}, Ctrl-C ends it.")
            # Not forever at once: on Windows a wait without an end keeps Ctrl-C out.
            while not display.ended.wait(1.0):
                pass
        except KeyboardInterrupt:
            pass
        except OSError as error:
            return _fail(f"cannot listen on port {args.port}: {error.strerror or error}")
        finally:
            server.stop()
            signal.signal(signal.SIGTERM, previous)
        display.note(display.summary())
    if display.output_error is not None:
        raise display.output_error
    if display.record_error is not None:
        return _fail(f"cannot write {args.record}: {display.record_error.strerror or display.record_error}")
    return 0


class _Display:
    """Prints and records events, and counts for the last line.

    An output that cannot be written any more sets `ended`.
    """

    def __init__(self, output: TextIO, record: TextIO | None, *, verbose: bool, as_json: bool) -> None:
        self.ended = threading.Event()
        self.output_error: OSError | None = None
        self.record_error: OSError | None = None
        self._output = output
        self._record = record
        self._verbose = verbose
        self._as_json = as_json
        self._colour = output.isatty() and not os.environ.get("NO_COLOR")
        self._requests = self._refused = self._events = 0
        # The common properties that were printed, by run; the oldest runs are forgotten.
        self._known: dict[object, dict[str, Any]] = {}

    def show(self, request: RecordedRequest) -> None:
        """Print one request and its events; append them to the record if they were accepted."""
        self._requests += 1
        if request.accepted:
            self._events += len(request.accepted_events)
            self._append(request.accepted_events)
        else:
            self._refused += 1
        lines = [] if self._as_json else [self._heading(request)]
        for event in request.events:
            try:
                lines += self._event(event)
            except RecursionError:  # refused, but its author wants to see the fault
                lines.append("null" if self._as_json else "(nested too deeply to be shown)")
        if lines:
            self.line("\n".join(lines))

    def note(self, text: str) -> None:
        """Print a line about the server itself."""
        if not self._as_json:
            self.line(text)
        elif sys.stderr is not None:
            with contextlib.suppress(OSError):  # a closed terminal
                sys.stderr.write(f"{text}\n")

    def line(self, text: str) -> None:
        """Print it at once, unless nobody reads any more."""
        if self.output_error is not None:
            return
        try:
            print(text, file=self._output, flush=True)
        except OSError as error:
            self.output_error = error
            self.ended.set()

    def summary(self) -> str:
        """Return the last line."""
        text = f"Accepted {_count(self._events, 'event')} in {_count(self._requests - self._refused, 'request')}"
        return text + (f", refused {_count(self._refused, 'request')}." if self._refused else ".")

    def _append(self, events: list[dict[str, Any]]) -> None:
        if self._record is None or self.record_error is not None:
            return
        from atotelemetry.testing.posthog_v1 import as_v0

        try:
            self._record.writelines(json.dumps(as_v0(event), separators=(",", ":")) + "\n" for event in events)
            self._record.flush()
        except OSError as error:
            self.record_error = error
            self.ended.set()
            # The buffer keeps the rest, and would fail once more wherever the file is closed.
            with contextlib.suppress(OSError):
                self._record.close()

    def _heading(self, request: RecordedRequest) -> str:
        line = (
            f"{request.method} {printable(request.path)}  {_count(len(request.events), 'event')}  "
            f"{_count(request.wire_bytes, 'byte')}  {request.status}"
        )
        answer = request.answer
        if request.accepted or answer is None:
            return self._styled(_DIM, line)
        return self._styled(_RED, f"{line} {printable(answer.body)}" if isinstance(answer.body, str) else line)

    def _event(self, event: dict[str, Any]) -> list[str]:
        if self._as_json:
            return [_json(event)]
        name, distinct_id, timestamp = (
            printable(str(event.get(key, "-"))) for key in ("event", "distinct_id", "timestamp")
        )
        properties = event.get("properties", {})
        if self._verbose or not isinstance(properties, dict):
            whole = printable(json.dumps(properties, indent=2, ensure_ascii=False), keep="\n")
            return [f"{self._styled(_BOLD, name)}  {distinct_id}  {timestamp}", *whole.split("\n")]
        time = timestamp[11:23] if _TIMESTAMP.match(timestamp) else timestamp
        own = {key: value for key, value in properties.items() if not _is_common(key)}
        return [
            *self._common({"distinct_id": event.get("distinct_id"), **properties}),
            "  ".join([self._styled(_BOLD, name), time, *_pairs(own)]),
        ]

    def _common(self, properties: dict[str, Any]) -> list[str]:
        """Return a line with a run's common properties: all at its first event, then only changed ones."""
        run = properties.get("run_id")
        known = self._known.setdefault(run if isinstance(run, str) else None, {})
        new = {key: value for key, value in properties.items() if _is_common(key) and known.get(key, self) != value}
        known.update(new)
        while len(self._known) > _RUNS_KNOWN:
            del self._known[next(iter(self._known))]
        return [self._styled(_DIM, "  ".join(["run:", *_pairs(new)]))] if new else []

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._colour else text


def _is_common(name: str) -> bool:
    """Whether all events of a run have this property, with the same value."""
    return name in _COMMON or name in KNOWN_PROPERTIES or name.startswith(_COMMON_PREFIXES)


def _pairs(properties: dict[str, Any]) -> list[str]:
    """Return `name=value` for each property; long values are cut."""
    texts = [f"{printable(name)}={_json(value)}" for name, value in properties.items()]
    return [shortened(text, _LONGEST) for text in texts]


def _json(value: object) -> str:
    return printable(json.dumps(value, ensure_ascii=False))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fail(reason: str) -> int:
    sys.stderr.write(f"atotelemetry serve: {reason}\n")
    return 2
