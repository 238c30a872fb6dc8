"""faulthandler's text as the properties of an `$exception` event.

Pure: bytes in, properties out. The text comes from a dying process, so it may be torn anywhere and have holes. Nothing
here raises for any bytes, and the size of the result is bounded.

The forms are those of CPython 3.11 to 3.15 (`Python/traceback.c` and `Modules/faulthandler.c`). The most recent call
comes first there, and last in PostHog's `$exception_list`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from atotelemetry.facts.places import folded, gap_frame, is_in, new_frame, place, slashes
from atotelemetry.facts.text import clip

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FATAL", "MAX_DUMP_BYTES", "Dump", "begins", "continues", "describe", "parse"]

MAX_DUMP_BYTES = 64 * 1024
FATAL = "Fatal Python error"

_MAX_THREADS = 100
_MAX_FRAMES = 128  # as of an exception; faulthandler itself stops at 100
_MAX_C_LINES = 64
_MAX_LINE_BYTES = 1024  # names have at most 500 characters
_MAX_EXTENSIONS = 200

# The words of faulthandler's handlers; a text of other words is the interpreter's own fatal error.
_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
    "access violation": "SIGSEGV",
    "stack overflow": "SIGSEGV",
}

_TITLE = re.compile(rf"({FATAL}|Windows fatal exception): ?(.*)")
_THREAD = re.compile(r"(Stack|(Current )?[Tt]hread (0x[0-9a-f]{1,16})(?: \[(.{0,500}?)\])?) \(most recent call first")
_C_STACK = re.compile(r"C stack trace \(most recent")
_FRAME = re.compile(r'File (?:"(.{0,1000})"|\?\?\?), line (\d{1,9}|\?\?\?) in (.{1,1000})')
_EXTENSIONS = re.compile(r"Extension modules: (.*?)(?: \(total: \d+\))?$")
_C_LINE = re.compile(r"^  (\S.*)")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(0010[0-9a-f]{4}|000[0-9a-f]{5}))")

_BEGINS = re.compile(
    rb"Fatal Python error: |Windows fatal exception: |Stack \(most recent|Current thread(?:'s C stack| 0x)|Thread 0x"
)
_CONTINUES = re.compile(rb'^(?:  |\.\.\.$|Extension modules: |Python runtime state: )|", line \d+ in ')

_Frame = tuple[str, "int | None", str]  # file, line, function


class Thread(NamedTuple):
    """One stack, the most recent call first."""

    ident: str
    """Its number, as faulthandler writes it; empty for the only stack of a dump."""
    name: str
    is_current: bool
    frames: list[_Frame]


class Dump:
    """A text of faulthandler, taken apart line by line."""

    def __init__(self, text: str = "", title: str = "") -> None:
        self.text = text
        self.title = title
        """Why it was written, such as "Segmentation fault"; empty where nothing was fatal."""
        self.is_windows = False
        self.threads: list[Thread] = []
        self.c_stack: list[str] = []
        self.extensions: list[str] = []
        self._frames: list[_Frame] = []  # of the latest thread
        self._in_c = False

    @property
    def is_fatal(self) -> bool:
        """Whether it tells of a crash, and not of a process that goes on."""
        return bool(self.title or self.c_stack) or any(not thread.ident for thread in self.threads)

    def take(self, line: str) -> re.Match[str] | None:
        """Take the next line; return the part that belongs to a dump."""
        for pattern, take in (
            (_TITLE, self._take_title),
            (_THREAD, self._take_thread),
            (_C_STACK, self._take_c_stack),
            (_FRAME, self._take_frame),
            (_EXTENSIONS, self._take_extensions),
            (_C_LINE, self._take_c_line),
        ):
            if found := pattern.search(line):
                take(found)
                return found
        return None

    def _take_title(self, found: re.Match[str]) -> None:
        if not self.title:
            self.threads, self.c_stack, self._in_c = [], [], False  # of a process that went on
            self.title, self.is_windows = found[2].strip() or FATAL, found[1] != FATAL

    def _take_thread(self, found: re.Match[str]) -> None:
        self._in_c = False
        self._begin(Thread(found[3] or "", _decoded(found[4] or ""), bool(found[2] or not found[3]), []))

    def _begin(self, thread: Thread) -> None:
        self._frames = thread.frames
        if len(self.threads) < _MAX_THREADS:
            self.threads.append(thread)

    def _take_frame(self, found: re.Match[str]) -> None:
        if self.title and not self.threads:  # the line above it got lost
            self._begin(Thread("", "", is_current=True, frames=[]))
        if len(self._frames) < _MAX_FRAMES:
            number = int(found[2]) if found[2].isdecimal() else None
            self._frames.append((_decoded_path(found[1] or "???"), number, _decoded(found[3])))

    def _take_c_stack(self, _: re.Match[str]) -> None:
        self._in_c = True

    def _take_c_line(self, found: re.Match[str]) -> None:
        if self._in_c and len(self.c_stack) < _MAX_C_LINES:
            self.c_stack.append(_decoded(found[1]))

    def _take_extensions(self, found: re.Match[str]) -> None:
        self.extensions = found[1].split(", ")[:_MAX_EXTENSIONS]


def begins(line: bytes) -> int:
    """Return the index of a dump's beginning in a line, perhaps behind half a line; -1 if there is none."""
    found = _BEGINS.search(line)
    return -1 if found is None else found.start()


def continues(line: bytes) -> bool:
    """Whether a line that is no JSON belongs to the dump before it."""
    return _CONTINUES.search(line) is not None or begins(line) >= 0


def parse(data: bytes) -> Dump | None:
    """Take a dump apart; None where the bytes hold nothing of one."""
    if len(data) > MAX_DUMP_BYTES:  # a crash begins with its own thread, a list of all threads ends with the main one
        half = MAX_DUMP_BYTES // 2
        data = data[:half] + b"\n" + data[-half:]
    text = data.decode("utf-8", "replace")
    dump, start, at = Dump(), -1, 0
    for line in text.split("\n"):
        was_fatal = bool(dump.title)
        found = dump.take(line[:_MAX_LINE_BYTES])
        begins_here = start < 0 or bool(dump.title) != was_fatal
        if found and begins_here and (dump.title or dump.threads or dump.c_stack):
            start = at + found.start()
        at += len(line) + 1
    if start < 0:
        return None
    dump.text = text[start:].rstrip() + "\n"
    return dump


def _decoded(text: str) -> str:
    r"""Undo the escapes of faulthandler, which writes ASCII: `\xe9`."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: chr(int(found[1] or found[2] or found[3], 16)), text)


def _decoded_path(text: str) -> str:
    # A backslash of a Windows path is not escaped, so the text behind it may only look like an escape.
    return _decoded(text) if text.startswith("/") else text


def describe(
    dump: Dump,
    *,
    distinct_id: str,
    own: Sequence[str] = (),
    search_path: Sequence[str] = (),
    silent_for: float | None = None,
) -> dict[str, Any]:
    """Describe a dump as PostHog reads an exception: see `host/exceptions.py` for the protocol facts.

    `own` are the import names of the application's code, `search_path` the import path of the process. A host that was
    silent for so many seconds hangs. So does one with a dump that is not fatal.
    """
    if dump.is_fatal and silent_for is None:
        kind = _SIGNALS.get(dump.title, "Windows fatal exception" if dump.is_windows else FATAL)
        message, level, mechanism = dump.title or FATAL, "fatal", {"type": "signal", "handled": False}
    else:
        kind, level, mechanism = "Hang", "error", {"type": "hang", "handled": True}
        message = "no event came" if silent_for is None else f"no event came for {silent_for:g} s"
    message = clip(message, _MAX_LINE_BYTES)
    entry: dict[str, Any] = {
        "type": kind,
        "value": message,
        "module": None,
        "mechanism": {**mechanism, "exception_id": 0},
    }
    main = _main_thread(dump)
    if main is not None and main.frames:
        entry["stacktrace"] = {"type": "raw", "frames": _described(main.frames, own, search_path)}
    properties: dict[str, Any] = {
        "$exception_message": message,
        "$exception_type": kind,
        "$exception_stack_trace": clip(dump.text, MAX_DUMP_BYTES),
        "$exception_person": distinct_id,
        "$exception_list": [entry],
        "$exception_level": level,
    }
    if dump.c_stack:
        properties["$exception_c_stack"] = [clip(line, _MAX_LINE_BYTES) for line in dump.c_stack]
    if dump.extensions:
        properties["$exception_extensions"] = [clip(name, _MAX_LINE_BYTES) for name in dump.extensions]
    if len(dump.threads) > 1:
        properties["$exception_threads"] = list(map(_listed, dump.threads))
    return properties


def _main_thread(dump: Dump) -> Thread | None:
    """Return the crashed thread, or the one that got the signal. The last is the oldest."""
    return next((thread for thread in dump.threads if thread.is_current), dump.threads[-1] if dump.threads else None)


def _listed(thread: Thread) -> dict[str, Any]:
    # PostHog groups by every entry of `$exception_list`; how many threads there are must not make another issue.
    stack = [f'File "{file}", line {"???" if line is None else line} in {name}' for file, line, name in thread.frames]
    return {
        "thread": thread.ident,
        "name": clip(thread.name, _MAX_LINE_BYTES),
        "current": thread.is_current,
        "stack": [clip(line, _MAX_LINE_BYTES) for line in stack],
    }


def _described(frames: Sequence[_Frame], own: Sequence[str], search_path: Sequence[str]) -> list[dict[str, Any]]:
    """Return the frames as PostHog reads them, entry point first, crash site last."""
    frames = frames[::-1]
    roots = sorted({slashes(root).rstrip("/") + "/" for root in search_path}, key=len, reverse=True)
    script = frames[0][0] if frames[0][2] == "<module>" else None
    described: list[dict[str, Any]] = []
    for index in folded(range(len(frames)), [(file, name) for file, _, name in frames]):
        if index < 0:
            described.append(gap_frame(-index))
            continue
        file, line, name = frames[index]
        module = _module(slashes(file), roots, own)
        if file == script and "." not in (module or ""):
            module = "__main__"
        described.append(new_frame(place(file, module, own), name, module, line))
    in_app = [frame for frame in described if frame["in_app"]]
    # As in `host/frames.py`: the `<module>` frame of a script, of `-m` or of a console script differs.
    if len(in_app) > 1 and in_app[0]["function"] == "<module>":
        before = described[: described.index(in_app[0])]
        in_app[0]["in_app"] = any(frame["filename"] != "<frozen runpy>" for frame in before)
    return described


def _module(path: str, roots: Sequence[str], own: Sequence[str]) -> str | None:
    """Return the import name of a file: of the application if possible, else by the nearest root."""
    names = []
    for root in roots:
        if path.startswith(root):
            parts = path[len(root) :].removesuffix(".py").removesuffix("/__init__").split("/")
            if all(part.isidentifier() for part in parts):
                names.append(".".join(parts))
    return next((name for name in names if any(is_in(package, name) for package in own)), names[0] if names else None)
