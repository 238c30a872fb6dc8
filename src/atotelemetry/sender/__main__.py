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


def main(arguments: list[str] | None = None) -> int:
    """Run a sender on stdin; return its exit code. Detaches first if a host started it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    log_path = _log_path()
    detached = bool(os.environ.get(_MARK)) and not arguments
    if detached:
        _detach()
    options = _options(arguments) if arguments else None

    from atotelemetry.sender.journal import Journal

    verbose = options is not None and options.verbose
    return _run(options, Journal(to_stderr=not detached, verbose=verbose, log_path=log_path), detached=detached)


def _options(arguments: list[str]) -> argparse.Namespace:
    from atotelemetry.sender.settings import parse  # after the fork: it loads msgspec

    return parse(arguments)


def _run(options: argparse.Namespace | None, journal: Journal, *, detached: bool) -> int:
    from atotelemetry.sender.loop import SENDER_IDLE, Sender
    from atotelemetry.sender.settings import overrides
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
        overrides={} if options is None else overrides(options),
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
