"""`python -m atotelemetry.sender`: arguments, standard streams, exit code.

The process that a host starts, detached, without arguments; and a Unix filter for people, who may give it some. Exit
code 0: everything was accepted. 1: something was not. 2: it was called wrongly.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

    from atotelemetry.sender.batch import Request
    from atotelemetry.sender.journal import Journal

__all__ = ["main"]

_MARK = "ATO_TELEMETRY_SENDER"  # set by the host that started this process (host/spawn.py)
_NICENESS = 10
_START_LIMIT = 60.0  # a sender that does not get to its input in this time (imports on a dead drive) never will
_INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended

_EPILOG = """\
input, one JSON object per line:
  {"event": "build", "distinct_id": "me", "properties": {"ok": true}}
  What is missing (uuid, timestamp, distinct_id) is made up. A recorded stream begins with a "hello" line that says
  where it goes, and then needs no options; those that are given win. Streams may follow one another.

examples:
  echo '{"event": "hello"}' | python -m atotelemetry.sender --host http://127.0.0.1:8000 --api-key test -v
  python -m atotelemetry.sender --dry-run < recorded.jsonl

environment:
  ATO_TELEMETRY_LOG=FILE   append what -v reports to FILE; works for the senders that a program starts, too
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY, SSL_CERT_FILE   as usual

exit status: 0 everything was accepted, 1 something was not, 2 called wrongly
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a sender on stdin; return its exit code. Detaches first if a host started it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    log_path = _log_path()
    detached = bool(os.environ.get(_MARK)) and not arguments
    if detached:
        _detach()
    options = _parse(arguments) if arguments else None

    from atotelemetry.sender.journal import Journal

    verbose = options is not None and options.verbose
    return _run(options, Journal(to_stderr=not detached, verbose=verbose, log_path=log_path), detached=detached)


def _run(options: argparse.Namespace | None, journal: Journal, *, detached: bool) -> int:
    from atotelemetry.sender.loop import SENDER_IDLE, Sender
    from atotelemetry.sender.watchdog import hold

    if sys.stdin is None:
        journal.problem("error: standard input is closed")
        return 2
    if options is not None and options.dry_run and sys.stdout is None:
        journal.problem("error: standard output is closed")
        return 2
    if not detached and os.isatty(0):
        journal.problem("waiting for events, one JSON object per line; end with Ctrl-D (--help shows an example)")
    sender = Sender(
        overrides={} if options is None else _overrides(options),
        journal=journal,
        stop_at_end=detached,
        # A person's pipeline may be slow; a host that says nothing for so long has forgotten us.
        idle=SENDER_IDLE if detached else None if options is None else options.idle,
        dry_run=_print_request if options is not None and options.dry_run else None,
    )
    if detached:
        hold()
    try:
        tally = sender.run(0)
    except KeyboardInterrupt:
        journal.problem(f"interrupted: {sender.tally}")
        return _INTERRUPTED
    except Exception as error:
        journal.problem(f"error: the sender failed: {error!r}; {sender.tally}")
        return 1
    journal.detail(f"done: {tally}")
    if sender.called_wrongly:
        journal.problem(f"error: {sender.called_wrongly}")
        return 2
    return 0 if tally.complete else 1


def _log_path() -> str | None:
    """Return the file that `ATO_TELEMETRY_LOG` names, seen from the host's directory, which we leave."""
    path = os.environ.get("ATO_TELEMETRY_LOG")
    try:
        return os.path.abspath(path) if path else None
    except OSError:
        return None  # that directory was removed


def _detach() -> None:
    """Let go of everything of the host's, and be as small a burden as possible."""
    _close_inherited()
    from atotelemetry.sender.watchdog import bite_after

    bite_after(_START_LIMIT)
    import signal

    for name in ("SIGINT", "SIGHUP"):  # the terminal's business is not ours
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a host that ignores it must not cost us git's exit codes
    steps: list[Any] = [lambda: os.chdir(os.sep)]  # the host's directory may be removed or unmounted meanwhile
    if hasattr(os, "setsid"):
        steps += [os.setsid, lambda: os.nice(_NICENESS), _lower_session]
    for step in steps:
        try:
            step()
        except OSError:
            continue  # setsid: the usual case, posix_spawn has made the session already


def _lower_session() -> None:
    """Lower the priority of our whole session, where the kernel groups processes by it (sched(7), autogroup).

    There a session of our own is a group of our own, which gets as much of the machine as the host's, however nice we
    are inside it.
    """
    if sys.platform == "linux":
        autogroup = os.open("/proc/self/autogroup", os.O_WRONLY)
        try:
            os.write(autogroup, b"%d" % _NICENESS)
        finally:
            os.close(autogroup)


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
    os.closerange(3, 256)


def _parse(arguments: list[str]) -> argparse.Namespace:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m atotelemetry.sender",
        description="Read events from standard input and deliver them to a PostHog-compatible server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", metavar="URL", help="base URL of the server, such as https://eu.i.posthog.com")
    add("--api-key", metavar="KEY", help="the project's write-only key")
    add("--app", metavar="NAME", help="the measured program, for the User-Agent (default: atopile)")
    add("--endpoint", choices=("auto", "capture", "batch"), help="auto: a lone event to /capture/, several to /batch/")
    add("--max-retries", type=_whole_number, metavar="N", help="attempts after the first (default: 1)")
    add("--timeout", type=_seconds, metavar="S", help="seconds for each network operation (default: 5)")
    add("--deadline", type=_seconds, metavar="S", help="seconds to live on after the input has ended (default: 15)")
    add("--idle", type=_seconds, metavar="S", help="end when nothing came for S seconds (default: wait for the end)")
    add("--compression", choices=("auto", "always", "never"), help="gzip the requests (default: auto, above 1 KiB)")
    add("--dry-run", action="store_true", help="print the body of each request instead of sending it")
    add("-v", "--verbose", action="store_true", help="report each request, retry and drop, and a summary, on stderr")
    options = parser.parse_args(arguments)
    if bool(options.host) != bool(options.api_key):
        parser.error("--host and --api-key go together (a stream with a hello line needs neither)")
    if options.host:
        from atotelemetry.sender.loop import fault_of
        from atotelemetry.wire import PROTOCOL_VERSION, Hello

        fault = fault_of(Hello(protocol=PROTOCOL_VERSION, api_key=options.api_key, host=options.host))
        if fault:
            parser.error(f"--host: {fault}")
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


def _whole_number(text: str) -> int:
    import argparse

    if not text.isascii() or not text.isdigit() or len(text) > 9:  # noqa: PLR2004 - as good as for ever
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given, as fields of a hello line."""
    given = {
        "host": options.host,
        "api_key": options.api_key,
        "app": options.app,
        "endpoint": options.endpoint,
        "max_retries": options.max_retries,
        "request_timeout": options.timeout,
        "sender_deadline": options.deadline,
    }
    overrides: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options.compression is not None:
        overrides["compression"] = {"auto": None, "always": True, "never": False}[options.compression]
    return overrides


def _print_request(request: Request) -> None:
    """Print a request's body, exactly: bytes, whatever the terminal's encoding is."""
    sys.stdout.buffer.write(request.body + b"\n")
    sys.stdout.buffer.flush()


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
        exit_code = _INTERRUPTED
    except SystemExit as leaving:  # argparse: 0 after --help, 2 after an error
        exit_code = leaving.code if isinstance(leaving.code, int) else 2
    _leave(exit_code)
