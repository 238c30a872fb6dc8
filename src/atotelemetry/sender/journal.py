"""What the sender says about its work, to whoever asked.

A detached sender has nobody to talk to and says nothing, unless `ATO_TELEMETRY_LOG` names a file. Run by hand, problems
go to stderr, and with `--verbose` every request does. A line is one `write` to a file opened for appending, so that the
lines of several senders do not mix.
"""

from __future__ import annotations

import os
import sys
import time

__all__ = ["Journal"]


class Journal:
    """Writes lines: to a log file (all of them), to stderr (problems always, the rest if `verbose`)."""

    def __init__(self, *, to_stderr: bool, verbose: bool, log_path: str | None) -> None:
        self._to_stderr = to_stderr
        self._verbose = verbose
        self._file = -1
        if log_path:
            try:
                self._file = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                self.problem(f"cannot write the log {log_path}: {error.strerror}")

    @property
    def listening(self) -> bool:
        """Whether anybody hears a `detail`."""
        return self._file >= 0 or (self._to_stderr and self._verbose)

    def problem(self, text: str) -> None:
        """Say what a person should know even without asking."""
        self._say(text, aloud=self._to_stderr)

    def detail(self, text: str) -> None:
        """Say what a person asked to see with `--verbose`."""
        self._say(text, aloud=self._to_stderr and self._verbose)

    def _say(self, text: str, *, aloud: bool) -> None:
        try:
            if aloud:
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
            if self._file >= 0:
                now = time.time()
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
                line = f"{stamp}.{int(now % 1 * 1000):03d}Z sender[{os.getpid()}] {text}\n"
                os.write(self._file, line.encode("utf-8", "replace"))
        except (OSError, ValueError):
            return  # a full disk or a closed terminal: there is nobody left to tell
