"""`python -m atotelemetry.sender`: arguments, standard streams, exit code.

A Unix filter for people. Exit code 0: every event was accepted. 1: some were not. 2: called wrongly.

A host starts it with `--detached`. Then it forks first of all, and its first process exits. So the sender is nobody's
child: no host meets it in `os.wait()`, and its exit code is always 0. It answers into the pipe at its stdout. With
`--dumps` the pipe at its stderr brings faulthandler's text.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # the real one would load `typing` before the fork
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

    from atotelemetry.sender.batch import Request
    from atotelemetry.sender.journal import Journal
    from atotelemetry.sender.loop import Sender

__all__ = ["main"]

_DETACHED = "--detached"
_URGENT = "--urgent"  # the host waits for the delivery
_DUMPS = "--dumps"  # stderr is the pipe that the host's faulthandler writes into
_WATCH = "--watch"  # `_HANDLE` is a pidfd of the host, which may end while we still start
_HANDLE = 3
_NICENESS = 10
_START_LIMIT = 60.0  # a start that takes longer (imports on a dead drive) never ends
_INTERRUPTED = 130  # as shells report a command that Ctrl-C ended


def main(arguments: list[str] | None = None) -> int:
    """Run a sender on stdin; return its exit code."""
    # Imports make no garbage, and collecting costs a tenth of a sender's CPU. The connection enables it again.
    gc.disable()
    if sys.platform == "win32":
        sys.modules["_wmi"] = None  # type: ignore[assignment]  # `platform` would ask it, which may take seconds
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [_DETACHED]:
        _fork()
        return _run_detached(arguments)
    return _run_by_hand(arguments)


def _run_detached(arguments: list[str]) -> int:
    log_path = _log_path()  # relative to the host's directory, which we leave
    handle = _HANDLE if _WATCH in arguments else -1
    pipe, dumps = _detach(humble=_URGENT not in arguments, has_dumps=_DUMPS in arguments, keep=handle)

    from atotelemetry.sender.journal import Journal
    from atotelemetry.sender.loop import SENDER_IDLE, Sender
    from atotelemetry.sender.reader import Source
    from atotelemetry.sender.watchdog import cancel_kill, on_terminate

    journal = Journal(to_stderr=False, verbose=False, log_path=log_path)
    sender = Sender(Source(pipe, dumps, handle), journal, overrides={}, idle=SENDER_IDLE)
    on_terminate(sender.terminate)
    cancel_kill()
    _report(sender, journal)
    return 0


def _run_by_hand(arguments: list[str]) -> int:
    from atotelemetry.sender.journal import Journal
    from atotelemetry.sender.loop import Sender
    from atotelemetry.sender.settings import overrides, parse

    options = parse(arguments)
    journal = Journal(to_stderr=True, verbose=options.verbose, log_path=_log_path())
    if sys.stdin is None:
        journal.problem("error: standard input is closed")
        return 2
    if options.dry_run and sys.stdout is None:
        journal.problem("error: standard output is closed")
        return 2
    if os.isatty(0):
        journal.problem("waiting for events, one JSON object per line; end with Ctrl-D (--help shows an example)")
    sender = Sender(
        None,
        journal,
        overrides=overrides(options),
        idle=options.idle,  # none by default: a person's pipeline may be slow
        dry_run=_print_request if options.dry_run else None,
    )
    return _report(sender, journal)


def _report(sender: Sender, journal: Journal) -> int:
    """Run the sender, report its end, return the exit code."""
    try:
        tally = sender.run()
    except KeyboardInterrupt:
        journal.problem(f"interrupted: {sender.tally}")
        return _INTERRUPTED
    except Exception as error:
        sender.fail()
        journal.problem(f"error: the sender failed: {error!r}; {sender.tally}")
        return 1
    journal.detail(f"done: {tally}")
    if sender.reader.called_wrongly:
        journal.problem(f"error: {sender.reader.called_wrongly}")
        return 2
    return 0 if tally.complete else 1


def _log_path() -> str | None:
    """Return the file that `ATO_TELEMETRY_LOG` names."""
    path = os.environ.get("ATO_TELEMETRY_LOG")
    try:
        return os.path.abspath(path) if path else None
    except OSError:
        return None  # that directory was removed


def _fork() -> None:
    """Go on in a child that nobody waits for; the first process ends here."""
    if not hasattr(os, "fork"):
        return  # Windows: nobody meets a stranger's child there
    leads = os.getsid(0) == os.getpid()  # the spawn made a session; the child is in it, and cannot get a terminal
    try:
        pid = os.fork()
    except OSError:
        os._exit(os.EX_TEMPFAIL)  # the process limit; the host learns it from this exit code
    if pid:
        os._exit(0)
    if not leads:
        try:
            os.setsid()
        except OSError:
            return  # refused, by seccomp for example


def _detach(*, humble: bool, has_dumps: bool, keep: int) -> tuple[int, int]:
    """Drop everything of the host's but `keep` and, if `humble`, our priority.

    Returns the descriptors of the answer pipe and of the pipe with dumps, which is -1 where there is none.
    """
    if sys.platform != "win32":  # there the spawn names the handles that we get
        _close_inherited(keep)
    pipe = os.dup(1)  # above 2, since a host opens all three
    dumps = os.dup(2) if has_dumps else -1

    from atotelemetry.sender.watchdog import kill_after, nowhere

    if has_dumps:
        os.set_blocking(dumps, False)
        os.dup2(nowhere(), 2)
    os.dup2(2, 1)  # the null device: a library that prints must not answer for us
    kill_after(_START_LIMIT)
    import signal

    for name in ("SIGINT", "SIGHUP", "SIGBREAK"):  # the terminal's business is not ours
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a host that ignores it must not cost us git's exit codes
    steps: list[Any] = [lambda: os.chdir(os.sep)]  # the host's directory may be removed or unmounted meanwhile
    if humble and hasattr(os, "nice"):
        steps += [lambda: os.nice(_NICENESS), _lower_session]
    for step in steps:
        try:
            step()
        except OSError:
            continue
    return pipe, dumps


def _lower_session() -> None:
    """Lower the priority of our whole session, where the kernel groups processes by it (sched(7), autogroup).

    There our own session is our own group. It gets as much of the machine as the host's, and our niceness counts only
    inside it.
    """
    if sys.platform == "linux":
        autogroup = os.open("/proc/self/autogroup", os.O_WRONLY)
        try:
            os.write(autogroup, b"%d" % _NICENESS)
        finally:
            os.close(autogroup)


def _close_inherited(keep: int) -> None:
    """Close every descriptor but the standard streams and `keep`.

    A host may have made some inheritable. Open here, they would hold its pipes, sockets and locks.
    """
    descriptors: Iterable[int] = range(256)
    for listing in ("/proc/self/fd", "/dev/fd"):
        try:
            descriptors = [int(name) for name in os.listdir(listing)]
            break
        except (OSError, ValueError):
            continue
    for descriptor in descriptors:
        if descriptor > 2 and descriptor != keep:  # stderr
            try:
                os.close(descriptor)
            except OSError:
                continue  # the listing's own


def _print_request(request: Request) -> None:
    """Print a request's body: the exact bytes, in no terminal's encoding."""
    sys.stdout.buffer.write(request.body + b"\n")
    sys.stdout.buffer.flush()


def _leave(code: int) -> NoReturn:
    """Exit at once: an abandoned attempt must not delay it, and there is nothing to clean up."""
    from atotelemetry.sender.watchdog import leave

    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = code or 1  # the reader of our output has gone
    leave(code)


if __name__ == "__main__":
    try:
        exit_code = main()
    except KeyboardInterrupt:
        exit_code = _INTERRUPTED
    except SystemExit as leaving:  # argparse: 0 after --help, 2 after an error
        exit_code = leaving.code if isinstance(leaving.code, int) else 2
    _leave(exit_code)
