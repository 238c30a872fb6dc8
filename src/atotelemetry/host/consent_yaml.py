"""The `telemetry.yaml` that a person wrote: understand any YAML, and change one value in it without touching the rest.

Runs in the host, loaded only for a file that is not in the plain form `consent` reads by itself (PyYAML is expensive to
import), and in the `atotelemetry` command, which alone writes. The text is parsed to nodes, never to Python objects:
nodes know where they stand, so the answer can name a line and an edit can replace exactly the characters of one value.
After an edit the new text is parsed again and must say what was wanted and otherwise the same; if it does not, the old
file is kept under another name and a new one written.
"""

from __future__ import annotations

import codecs
import os
import stat

from atotelemetry.host.consent import (
    MAX_FILE_BYTES,
    NO_CHOICE,
    FileChoice,
    canonical_id,
    create,
    file_content,
    random_id,
    read_choice,
    said,
    write_beside,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # PyYAML's stubs say of every value and mark that it may be None, which for composed nodes is not so.
    Node = Any
    MappingNode = Any

__all__ = ["interpret", "with_choice", "write"]

# Settings are a mapping of scalars. PyYAML's composer recurses in C: some ten thousand brackets would crash the host.
_MAX_DEPTH = 20
_MERGE = "<<"


class _DamagedError(ValueError):
    """The text cannot be understood; `line` counts from 1 where it is known."""

    def __init__(self, detail: str, line: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.line = line

    def __str__(self) -> str:
        return f"{self.detail}, line {self.line}" if self.line else self.detail


def interpret(raw: bytes) -> FileChoice:
    """Say what the content of a configuration file means. Never "missing"; raises only what a broken PyYAML raises.

    Keys count in any case of letters. Where `telemetry` stands twice, one "no" is enough.
    """
    try:
        return _interpret(_compose(_decode(raw)[2]))
    except _DamagedError as damage:
        return FileChoice("damaged", damage.detail, damage.line)


def with_choice(raw: bytes, *, enabled: bool) -> bytes:
    """Return `raw` with the value of `telemetry` (added when there is none) changed to `enabled`, all else as it was.

    Returns the same bytes when they say so already. Raises ValueError when changing this one value does not suffice.
    """
    mark, encoding, text = _decode(raw)
    mapping = _compose(text)
    pairs = _own_pairs(mapping, "telemetry")
    edits = [_replacement(text, key, value, enabled) for key, value in pairs if _meaning(value) is not enabled]
    if not pairs:
        edits.append(_insertion(text, mapping, enabled))
    edited = text
    for start, end, new in sorted(edits, reverse=True):
        edited = edited[:start] + new + edited[end:]
    again = _compose(edited)
    if _interpret(again).state != ("on" if enabled else "off") or _others(again) != _others(mapping):
        raise ValueError("the value cannot be changed on its own")
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError("larger than a run would read")
    return mark + edited.encode(encoding)


def write(path: str, *, enabled: bool) -> str:
    """Make the file at `path` say `enabled` and return what was done, for people.

    Raises OSError or ValueError, with a text for people, when the choice could not be stored.
    """
    word = "true" if enabled else "false"
    # Dotfile managers keep a link here: the file behind it is what the person edits.
    target = os.path.realpath(path)
    new_file = file_content(random_id(), enabled=enabled)
    # Created exclusively, so that a first run at the same moment is not overwritten.
    if not os.path.lexists(target) and create(target, new_file):
        done = f"created {path} with telemetry: {word}"
    else:
        done = _rewrite(target, enabled=enabled)
    found = read_choice(path)
    if found.state != ("on" if enabled else "off"):
        raise OSError(f"the choice was written, but what can be read now is: {found.reason(path)}")
    return done


def _rewrite(target: str, *, enabled: bool) -> str:
    status = os.stat(target)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{target} is not a regular file; move it away and try again")
    before = read_choice(target)
    # An unreadable file ends here, with the system's own words.
    with open(target, "rb") as file:
        raw = file.read()
    kept = None
    try:
        content = with_choice(raw, enabled=enabled)
    except ValueError:
        content = file_content(before.id or random_id(), enabled=enabled)
        # A copy, not a rename: at no moment may there be no file, which would mean yes.
        kept = _keep_copy(target, raw)
    if content == raw:
        return f"nothing to change: {before.reason(target)}"
    _replace(target, content, status)
    after = read_choice(target)
    if kept is not None:
        problem = "could not be understood" if before.state == "damaged" else "could not be edited safely"
        return f"the old file {problem} and is now {kept}; wrote a new one: {after.reason(target)}"
    # A line number means that the file named a choice.
    was = f" (it said {before.detail})" if before.state != "damaged" and before.line else ""
    return f"wrote {after.reason(target)}{was}"


def _replace(target: str, content: bytes, status: os.stat_result) -> None:
    """Put `content` in the place of `target` at once, with the mode and owner in `status`. Raises OSError."""
    from contextlib import suppress  # a run has no use for it

    temporary = write_beside(target, content, synchronise=True)
    try:
        if os.name != "nt":
            # Run by root (sudo), the file must still be its owner's, or the next run could not read it.
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                # Without the right to do so the file becomes ours, and ours is the choice.
                with suppress(OSError):
                    os.chown(temporary, status.st_uid, status.st_gid)
            os.chmod(temporary, stat.S_IMODE(status.st_mode))
        os.replace(temporary, target)
    except BaseException:
        # The first error is the one to report.
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _keep_copy(target: str, raw: bytes) -> str:
    """Store `raw` beside `target` under a name that nothing has yet, and return the name. Raises OSError."""
    name, number = f"{target}.bak", 1
    while not create(name, raw):
        number += 1
        name = f"{target}.bak{number}"
    return name


def _decode(raw: bytes) -> tuple[bytes, str, str]:
    """Return byte order mark, encoding and text. UTF-16 is what PowerShell's `>` writes."""
    marks = (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    )
    mark, encoding = next(((m, e) for m, e in marks if raw.startswith(m)), (b"", "utf-8"))
    try:
        return mark, encoding, raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise _DamagedError(f"not {encoding.upper()} text", 1 + raw[: error.start].count(b"\n")) from None


def _compose(text: str) -> MappingNode:
    """Parse `text` to the one mapping it must hold. Raises `_DamagedError`."""
    import yaml  # see the module's docstring

    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        event: Any
        for event in yaml.parse(text, Loader=loader_class):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise _DamagedError("nested too deeply", event.start_mark.line + 1)
        loader = loader_class(text)
        try:
            documents: list[Any] = []
            while loader.check_node():
                documents.append(loader.get_node())
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise _DamagedError(f"not YAML: {problem}", place.line + 1 if place else None) from None
    # A person may close the document with another `---`; what follows it must be empty then.
    if not documents or all(_is_empty(node) for node in documents):
        raise _DamagedError("the file is empty")
    mapping = documents[0]
    if not isinstance(mapping, yaml.MappingNode):
        raise _DamagedError("not a list of `key: value`", mapping.start_mark.line + 1)
    for node in documents[1:]:
        if not _is_empty(node):
            raise _DamagedError("more than one document", node.start_mark.line + 1)
    return mapping


def _interpret(mapping: MappingNode) -> FileChoice:
    ids = [value for _, value in _pairs(mapping, "id") if not _is_empty(value)]
    found_id = canonical_id(ids[-1].value) if ids and isinstance(ids[-1].value, str) else None
    deciding: FileChoice | None = None
    for key, value in _pairs(mapping, "telemetry"):
        meaning, line, shown = _meaning(value), key.start_mark.line + 1, f"{key.value}: {_quoted(value)}"
        if meaning is False:
            return FileChoice("off", shown, line, found_id)
        if meaning is None:
            deciding = FileChoice("damaged", f"`{shown}` is neither yes nor no", line, found_id)
        elif deciding is None:
            deciding = FileChoice("on", shown, line, found_id)
    if deciding is not None and deciding.state == "damaged":
        return deciding
    if ids and found_id is None:
        # Cut off by a full disk, or mistyped: who damaged the file, and what else is missing from it?
        return FileChoice("damaged", "the id is not a UUID", ids[-1].start_mark.line + 1)
    if deciding is None:
        # `{telemetry:false}` is YAML for a key of that name: somebody wanted to say something.
        for key, _ in mapping.value:
            if isinstance(key.value, str) and "telemetry" in key.value.lower():
                reason = f"the key `{_quoted(key)}` should perhaps be `telemetry`"
                return FileChoice("damaged", reason, key.start_mark.line + 1, found_id)
    return deciding or FileChoice("on", NO_CHOICE, None, found_id)


def _own_pairs(mapping: MappingNode, name: str) -> list[tuple[Node, Node]]:
    """Return the pairs of `mapping` whose key is `name`, in the order of the file."""
    return [
        (key, value) for key, value in mapping.value if isinstance(key.value, str) and key.value.strip().lower() == name
    ]


def _pairs(mapping: MappingNode, name: str) -> list[tuple[Node, Node]]:
    """Return the same, looking into what the mapping merges (`<<: *defaults`) when it has none of its own."""
    levels, seen = [mapping], set()
    while levels:
        level = levels.pop(0)
        if id(level) in seen or not isinstance(level.value, list):
            continue
        seen.add(id(level))
        if not all(isinstance(item, tuple) for item in level.value):
            # `<<: [*one, *two]`: the first that has the key wins.
            levels[:0] = level.value
            continue
        if pairs := _own_pairs(level, name):
            return pairs
        levels.extend(value for key, value in level.value if key.value == _MERGE)
    return []


def _meaning(value: Node) -> bool | None:
    return said(value.value) if isinstance(value.value, str) else None


def _is_empty(node: Node) -> bool:
    """Whether `node` is YAML's null, written or left out."""
    return isinstance(node.value, str) and node.tag == "tag:yaml.org,2002:null"


def _quoted(value: Node) -> str:
    """Return what stands in the file for `value`, as far as it fits a message."""
    if not isinstance(value.value, str):
        return "…"
    text = " ".join(value.value.split())
    return text if len(text) <= 40 else text[:39] + "…"  # noqa: PLR2004 - enough to recognise it


def _replacement(text: str, key: Node, value: Node, enabled: bool) -> tuple[int, int, str]:
    """Return start, end and new text for one value. Raises ValueError when the value is more than a word."""
    new = "true" if enabled else "false"
    start, end = value.start_mark.index, value.end_mark.index
    if start < key.end_mark.index:
        # An alias (`*name`): its node stands where the anchor does. Only the alias itself is to be replaced.
        start = text.index("*", key.end_mark.index)
        end = start + 1
        while end < len(text) and not text[end].isspace() and text[end] not in ",[]{}":
            end += 1
    if start == end:
        # No value: right after the colon, or (`{telemetry, id: …}`) after the key, without even a colon.
        colon = text.find(":", key.end_mark.index, end)
        at = colon + 1 if colon >= 0 else key.end_mark.index
        return at, at, f" {new}" if colon >= 0 else f": {new}"
    if not isinstance(value.value, str) or "\n" in text[start:end]:
        raise ValueError("the value is more than a word")
    return start, end, new


def _insertion(text: str, mapping: MappingNode, enabled: bool) -> tuple[int, int, str]:
    """Return start, end and new text for a `telemetry` key before the others."""
    pair = f"telemetry: {'true' if enabled else 'false'}"
    start = mapping.start_mark.index
    if mapping.flow_style:
        return start + 1, start + 1, f"{pair}, " if mapping.value else pair
    newline = "\r\n" if "\r\n" in text else "\n"
    return start, start, pair + newline + " " * mapping.start_mark.column


def _others(mapping: MappingNode) -> list[tuple[str, str]]:
    """Return every pair but `telemetry`, in a form that can be compared."""
    import yaml

    ours = {id(key) for key, _ in _own_pairs(mapping, "telemetry")}
    return [(yaml.serialize(key), yaml.serialize(value)) for key, value in mapping.value if id(key) not in ours]
