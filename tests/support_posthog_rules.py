"""What PostHog requires of a `$exception` event, as a checker that says which rule was broken.

The rules are those of PostHog's ingestion (`rust/cymbal` in github.com/PostHog/posthog: the types `Exception`,
`Mechanism`, `Stacktrace` and `RawPythonFrame`, and the checks of `ExceptionProperties`) and those of our own contract,
which are stricter: no field of a frame is ever missing. `in_app` and `fingerprint` repeat how issues are grouped there.
"""

from __future__ import annotations

import hashlib
import re
import sys

LEGACY_TRIO = ("$exception_message", "$exception_type", "$exception_stack_trace", "$exception_person")
FRAME_FIELDS = {
    *("platform", "filename", "abs_path", "function", "module", "lineno", "in_app"),
    *("pre_context", "context_line", "post_context"),
}
LEVELS = {"fatal", "error", "warning", "log", "info", "debug"}
MAX_EXCEPTIONS = 50
MAX_FRAMES = 129  # with the one that stands for those left out
MAX_BYTES = 300 * 1024
MAX_U32 = 2**32 - 1
MAX_CONTEXT_LINES = 5

PACKAGES = re.compile(r"[/\\](?:dist|site)-packages[/\\]")
STANDARD_LIBRARY = re.compile(r"[/\\][Ll]ib[/\\]python\d+(?:\.\d+)?[/\\]")
STANDARD_LIBRARY_MODULES = {name for name in sys.stdlib_module_names if not name.startswith("_")} | {
    *("aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "mailcap", "nntplib", "pipes", "sndhdr", "sunau"),
    *("telnetlib", "uu", "xdrlib"),
}


def in_app(frame: dict) -> bool:
    """Whether PostHog counts a frame as the application's: the client's word, but never for a library's code."""
    if not frame["in_app"]:
        return False
    top = (frame["module"] or "").partition(".")[0]
    path, name = frame["abs_path"], frame["filename"]
    if top in STANDARD_LIBRARY_MODULES and any(
        text.startswith("<") and text.endswith(">") for text in (name, re.split(r"[/\\]", path or "")[-1])
    ):
        return False
    if path is not None:
        return not PACKAGES.search(path) and not STANDARD_LIBRARY.search(path)
    return not PACKAGES.search(name) and top not in STANDARD_LIBRARY_MODULES


def fingerprint(properties: dict) -> str:
    """Return what PostHog groups by: the types, the in-app frames or else the first, the message where no stack is."""
    digest = hashlib.sha512()
    for entry in properties["$exception_list"]:
        digest.update(entry["type"].encode())
        frames = entry.get("stacktrace", {}).get("frames")
        if frames is None:
            digest.update(entry["value"].encode())
            continue
        for frame in [frame for frame in frames if in_app(frame)] or frames[:1]:
            for part in (frame["filename"], frame["module"] or "", frame["function"]):
                digest.update(part.encode())
    return digest.hexdigest()


def check_exception_properties(properties: dict) -> None:
    """Raise an AssertionError that names the first rule broken by the properties of a `$exception` event."""
    _check_plain(properties, "properties")
    for key in LEGACY_TRIO:
        assert type(properties.get(key)) is str, f"{key} is a string"
    assert properties["$exception_level"] in LEVELS, "$exception_level is one that PostHog knows"
    entries = properties["$exception_list"]
    assert type(entries) is list, "$exception_list is a list"
    assert 1 <= len(entries) <= MAX_EXCEPTIONS, "an event with an empty list is refused; 50 exceptions are the most"
    for number, entry in enumerate(entries):
        _check_entry(entry, number)
    assert _size_in_bytes(properties) <= MAX_BYTES, "the whole of it stays small"


def _check_entry(entry: dict, number: int) -> None:
    assert type(entry["type"]) is str, "`type` is a string"
    assert entry["type"], "`type` is not empty"
    assert len(entry["type"].encode()) <= 300, "`type` is short"
    assert type(entry["value"]) is str, "`value` is a string"
    assert entry["module"] is None or type(entry["module"]) is str, "`module` is a string or null"
    mechanism = entry["mechanism"]
    assert type(mechanism["handled"]) is bool, "`mechanism.handled` is a boolean"
    assert type(mechanism["type"]) is str, "`mechanism.type` is a string"
    assert mechanism["exception_id"] == number, "`exception_id` is the place in the list"
    if number:
        assert mechanism["type"] == "chained"
        assert 0 <= mechanism["parent_id"] < number, "a parent comes before its children: root cause last"
        assert mechanism["source"] in {"cause", "context", "member"}
    else:
        assert mechanism["type"] == "generic"
        assert "parent_id" not in mechanism, "the caught exception comes first and has no parent"
    if "stacktrace" in entry:
        assert entry["stacktrace"]["type"] == "raw", "frames not yet resolved by PostHog are `raw`"
        frames = entry["stacktrace"]["frames"]
        assert 1 <= len(frames) <= MAX_FRAMES, "without frames there is no `stacktrace`; many are cut"
        for frame in frames:
            _check_frame(frame)


def _check_frame(frame: dict) -> None:
    assert frame.keys() >= FRAME_FIELDS, f"a frame lacks {FRAME_FIELDS - frame.keys()}"
    assert frame["platform"] == "python", "`platform` chooses how PostHog reads the frame"
    assert type(frame["filename"]) is str, "`filename` is never null"
    assert frame["filename"], "`filename` is not empty"
    assert type(frame["function"]) is str, "`function` is never null"
    assert frame["function"], "`function` is not empty"
    assert type(frame["in_app"]) is bool, "`in_app` is always set: PostHog takes a missing one for true"
    assert frame["lineno"] is None or (type(frame["lineno"]) is int and 0 <= frame["lineno"] <= MAX_U32)
    for key in ("abs_path", "module", "context_line"):
        assert frame[key] is None or type(frame[key]) is str, f"`{key}` is a string or null"
    around = [*frame["pre_context"], frame["context_line"] or "", *frame["post_context"]]
    assert all(type(line) is str for line in around), "a missing line of context is no null"
    assert all(len(line) <= 320 for line in around), "a line of source is cut"
    for key in ("pre_context", "post_context"):
        assert len(frame[key]) <= MAX_CONTEXT_LINES, "five lines on each side"
    assert frame["context_line"] is not None or not (frame["pre_context"] or frame["post_context"])


def _check_plain(value: object, place: str, depth: int = 0) -> None:
    """Check that `value` is made of what JSON has, by exact type: no subclass may hide behaviour of its own."""
    assert depth < 64, "PostHog refuses deep nesting"
    if type(value) is dict:
        for key, item in value.items():
            assert type(key) is str, f"a key of {place} is a string"
            _check_plain(item, f"{place}.{key}", depth + 1)
    elif type(value) is list:
        for number, item in enumerate(value):
            _check_plain(item, f"{place}[{number}]", depth + 1)
    elif type(value) is str:
        value.encode()  # a lone surrogate has no UTF-8
    else:
        assert value is None or type(value) in (bool, int, float), f"{place} is {type(value).__name__}"


def _size_in_bytes(value: object) -> int:
    import msgspec

    return len(msgspec.json.encode(value))
