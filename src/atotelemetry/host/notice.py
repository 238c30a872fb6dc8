"""The first that a person hears of telemetry: a notice, printed before anything is ever sent.

Runs in the host, on the capturing thread, at the first event of a run without `telemetry.yaml`. No other run loads
this. The file is created with the notice: the next run sends, this one does not.
"""

from __future__ import annotations

import os
import sys

from atotelemetry.facts.text import environment_prefix, printable
from atotelemetry.host.choice import create, file_content, may_create
from atotelemetry.host.consent import announced, read_choice
from atotelemetry.host.debug import debug
from atotelemetry.ids import uuid4

__all__ = ["give", "text_for"]


def give(app: str, path: str, text: str, *, watched: bool) -> bool:
    """Print the notice on stderr and create the file at `path`; False if this is no run for either. Never raises.

    Without a terminal nobody would read it. A shell that completes a command line runs the program unseen. Where no
    file can be created every run would print it again.
    """
    try:
        is_seen = sys.stderr is not None and sys.stderr.isatty() and not _completes()
        if not is_seen or not path or not may_create(path):
            return False
        if read_choice(path).state != "missing":
            return False
        shown = printable(text or text_for(app, path, watched=watched), keep="\n").rstrip("\n") + "\n"
        made = create(path, file_content(uuid4(), enabled=True), before=lambda: _print(shown))
        announced.add(path)
        return made
    except Exception as error:
        debug("no notice: %r", error)
        return False


def text_for(app: str, path: str, *, watched: bool = False) -> str:
    """Return the notice of an application that has none of its own; one that is `watched` reports its own end, too."""
    prefix = environment_prefix(app)
    crashes = "crashes,\nhangs, and runs that were killed, " if watched else "and crashes,\n"
    return f"""{app} reports to its developers how it is used: which commands run, how long they take, {crashes}\
under a random id. Nothing has been sent so far; the next run will send.
  see it:     {prefix}_TELEMETRY=log {app} …   prints what would be sent
  say no:     {prefix}_TELEMETRY=off or DO_NOT_TRACK=1 in the environment,
              or telemetry: false in {path}
  read more:  {_homepage(app) or f"{os.path.basename(sys.executable)} -m atotelemetry status --app {app}"}"""


def _homepage(app: str) -> str:
    """Return the address that the application's metadata gives, "" if none."""
    import importlib.metadata  # only this one run pays for it

    try:
        metadata = importlib.metadata.metadata(app)
    except Exception:
        return ""
    links = [value.partition(", ")[2] for value in metadata.get_all("Project-URL") or ()]
    return next(filter(None, [*(metadata.get_all("Home-page") or ()), *links]), "")


def _completes() -> bool:
    """Whether a shell runs this program to complete a command line."""
    # bash sets COMP_LINE, argcomplete _ARGCOMPLETE, click and typer _<PROGRAM>_COMPLETE.
    return any(
        name in ("COMP_LINE", "_ARGCOMPLETE") or (name.startswith("_") and name.endswith("_COMPLETE"))
        for name in os.environ
    )


def _print(text: str) -> None:
    stream = sys.stderr
    encoding = stream.encoding or "utf-8"
    # In one write, so that it does not mix with other output.
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
