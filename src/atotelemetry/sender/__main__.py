"""`python -m atotelemetry.sender`: arguments, standard streams, exit code.

The process that a host starts, detached, without arguments; and a Unix filter for people, who may give it some. Exit
code 0: everything was accepted. 1: something was not. 2: it was called wrongly.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

    from atotelemetry.sender.batch import Request
    from atotelemetry.wire import Hello

__all__ = ["main"]

_MARK = "ATO_TELEMETRY_SENDER"  # set by the host that started this process (host/spawn.py)
_NICENESS = 10

_EPILOG = """\
input, one JSON object per line:
  {"event": "build", "distinct_id": "me", "properties": {"ok": true}}
  What is missing (uuid, timestamp, distinct_id) is made up. A recorded stream begins with a "hello" line that says
  where it goes, and then needs no options.

example:
  echo '{"event": "hello"}' | python -m atotelemetry.sender --host http://127.0.0.1:8000 --api-key test -v

exit status: 0 everything was accepted, 1 something was not, 2 called wrongly
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a sender on stdin; return its exit code. Detaches first if a host started it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    log_path = os.environ.get("ATO_TELEMETRY_LOG")
    log_path = os.path.abspath(log_path) if log_path else None  # relative to the host's directory, which we leave
    detached = bool(os.environ.get(_MARK)) and not arguments
    if detached:
        _detach()
    options = _parse(arguments) if arguments else None

    from atotelemetry.sender.journal import Journal
    from atotelemetry.sender.loop import SENDER_IDLE, Sender

    journal = Journal(to_stderr=not detached, verbose=options is not None and options.verbose, log_path=log_path)
    interactive = not detached and os.isatty(0)
    if interactive:
        sys.stderr.write("waiting for events, one JSON object per line; end with Ctrl-D (--help shows an example)\n")
    sender = Sender(
        settings=None if options is None else _settings(options),
        journal=journal,
        stop_at_end=detached,
        idle=None if interactive else SENDER_IDLE,
        dry_run=_print_request if options is not None and options.dry_run else None,
    )
    tally = sender.run(0)
    if sender.called_wrongly:
        journal.problem(f"error: {sender.called_wrongly}")
        return 2
    journal.detail(f"done: {tally}")
    return 0 if tally.complete else 1


def _detach() -> None:
    """Let go of everything of the host's, and be as small a burden as possible."""
    _close_inherited()
    import signal

    for name in ("SIGINT", "SIGHUP"):  # the terminal's business is not ours
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a host that ignores it must not cost us git's exit codes
    if hasattr(os, "setsid"):
        try:
            os.setsid()
        except PermissionError:
            pass  # the usual case: posix_spawn has made the session already
        os.nice(_NICENESS)
    import tempfile

    for directory in (tempfile.gettempdir, lambda: os.sep):  # the host's may be unmounted or removed meanwhile
        try:
            os.chdir(directory())
            break
        except OSError:
            continue


def _close_inherited() -> None:
    """Close every descriptor but the standard streams.

    A host may have made some inheritable; kept open here, they would hold its pipes, sockets and locks.
    """
    for listing in ("/proc/self/fd", "/dev/fd"):
        try:
            descriptors = [int(name) for name in os.listdir(listing)]
        except (OSError, ValueError):
            continue
        for descriptor in descriptors:
            if descriptor > 2:  # noqa: PLR2004 - stderr
                try:
                    os.close(descriptor)
                except OSError:
                    continue  # the listing's own
        return


def _parse(arguments: list[str]) -> argparse.Namespace:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m atotelemetry.sender",
        description="Read events from standard input and deliver them to a PostHog-compatible server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", metavar="URL", help="base URL of the server, such as https://eu.i.posthog.com")
    add("--api-key", metavar="KEY", help="the project's write-only key")
    add("--app", default="atopile", help="name of the measured program, for the User-Agent (default: %(default)s)")
    add("--endpoint", choices=("auto", "capture", "batch"), default="auto", help="default: %(default)s")
    add("--max-retries", type=_not_negative, default=1, metavar="N", help="default: %(default)s")
    add("--timeout", type=_seconds, default=5.0, metavar="S", help="seconds for each network operation (%(default)s)")
    add("--deadline", type=_seconds, default=15.0, metavar="S", help="seconds to live after the input (%(default)s)")
    add("--compression", choices=("auto", "always", "never"), default="auto", help="gzip the requests (%(default)s)")
    add("--dry-run", action="store_true", help="print each request's body instead of sending it")
    add("-v", "--verbose", action="store_true", help="report each request, retry and drop, and a summary, on stderr")
    options = parser.parse_args(arguments)
    if bool(options.host) != bool(options.api_key):
        parser.error("--host and --api-key go together (a stream with a hello line needs neither)")
    if options.host and not options.host.lower().startswith(("http://", "https://")):
        parser.error(f"--host must be an http:// or https:// URL, not {options.host!r}")
    return options


def _seconds(text: str) -> float:
    import argparse

    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:  # noqa: PLR2004 - more than a lock can wait
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return value


def _not_negative(text: str) -> int:
    import argparse

    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _settings(options: argparse.Namespace) -> Hello | None:
    from atotelemetry.wire import PROTOCOL_VERSION, Hello

    if not options.host:
        return None
    return Hello(
        protocol=PROTOCOL_VERSION,
        api_key=options.api_key,
        host=options.host,
        app=options.app,
        endpoint=options.endpoint,
        compression={"auto": None, "always": True, "never": False}[options.compression],
        max_retries=options.max_retries,
        request_timeout=options.timeout,
        sender_deadline=options.deadline,
    )


def _print_request(request: Request) -> None:
    sys.stdout.write(request.body.decode() + "\n")


def _leave(code: int) -> NoReturn:
    """End at once: nothing is left to clean up, and an abandoned attempt must not hold up the exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = code or 1  # whoever read our output has gone
    os._exit(code)


if __name__ == "__main__":
    try:
        exit_code = main()
    except KeyboardInterrupt:
        exit_code = 130
    except SystemExit as leaving:  # argparse: 0 after --help, 2 after an error
        exit_code = leaving.code if isinstance(leaving.code, int) else 2
    _leave(exit_code)
