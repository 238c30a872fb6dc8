"""The sender's reports about its work.

A detached sender reports nothing, unless `ATO_TELEMETRY_LOG` or the application's own variable names a file. By hand,
problems go to stderr, and with `--verbose` every request does. A line is one `write` to a file opened for appending, so
lines of several senders never mix. Any thread may report.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

from atotelemetry.facts.text import environment_prefix, printable

__all__ = ["Journal"]


class Journal:
    """Writes lines: to a log file (all of them), to stderr (problems always, the rest if `verbose`)."""

    def __init__(self, *, to_stderr: bool, verbose: bool, log_path: str | None) -> None:
        self._to_stderr = to_stderr
        self._verbose = verbose
        self._file = -1
        if log_path:
            self._open(log_path)

    def follow(self, app: str, directory: str | None) -> None:
        """Write to the file that `<APP>_TELEMETRY_LOG` names, as seen from the host's directory. Never raises."""
        path = os.environ.get(f"{environment_prefix(app)}_TELEMETRY_LOG")
        # ATO_TELEMETRY_LOG holds for any application, and was heard before the application was known.
        if path and app != "atopile" and (directory or os.path.isabs(path)):
            if self._file >= 0:
                os.close(self._file)
            self._file = -1
            self._open(os.path.join(directory or "", path))

    def _open(self, log_path: str) -> None:
        try:
            # Without waiting: a named pipe that nobody reads must not keep a sender from its work.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
            self._file = os.open(log_path, flags, 0o600)
        except (OSError, ValueError) as error:
            self.problem(f"cannot write the log {log_path}: {getattr(error, 'strerror', None) or error}")

    def problem(self, text: str) -> None:
        """Report something that every person should know. Never raises."""
        self._say(text, aloud=self._to_stderr)

    def detail(self, text: str) -> None:
        """Report something that a person sees with `--verbose`. Never raises."""
        self._say(text, aloud=self._to_stderr and self._verbose)

    def _say(self, text: str, *, aloud: bool) -> None:
        if not aloud and self._file < 0:
            return
        # Names and reasons come from elsewhere: they must neither steer a terminal nor start another line.
        text = printable(text)
        with contextlib.suppress(OSError, ValueError):  # a closed terminal: there is nobody left to tell
            if aloud and sys.stderr is not None:
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
        with contextlib.suppress(OSError, ValueError):  # a full disk
            if self._file >= 0:
                now = time.time()
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
                line = f"{stamp}.{int(now % 1 * 1000):03d}Z sender[{os.getpid()}] {text}\n"
                os.write(self._file, line.encode("utf-8", "replace"))
