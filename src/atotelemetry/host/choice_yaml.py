"""The meaning of any YAML that a person wrote.

Runs in the host, loaded only for a file that `choice` cannot read: PyYAML is expensive to import. The text is parsed to
nodes, never to Python objects. Nodes have positions: the answer can name a line, and `edit` can replace the characters
of one value.
"""

from __future__ import annotations

import codecs

from atotelemetry.facts.text import shortened
from atotelemetry.host.choice import NO_CHOICE, FileChoice, said
from atotelemetry.ids import canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # PyYAML's stubs make every value and mark optional; in composed nodes none is None.
    Node = Any
    MappingNode = Any

__all__ = ["DamagedError", "compose", "decode", "interpret", "meaning", "own_pairs", "read_mapping"]

# Settings are a mapping of scalars. PyYAML's composer recurses in C: some ten thousand brackets would crash the host.
_MAX_DEPTH = 20
_MERGE = "<<"


class DamagedError(ValueError):
    """The text cannot be understood; `line` counts from 1 where it is known."""

    def __init__(self, detail: str, line: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.line = line

    def __str__(self) -> str:
        return f"{self.detail}, line {self.line}" if self.line else self.detail


def interpret(raw: bytes) -> FileChoice:
    """Return the meaning of a configuration file's content. Never "missing"; raises only if PyYAML is broken.

    Keys count in any case of letters. Where `telemetry` stands twice, one "no" is enough.
    """
    try:
        return read_mapping(compose(decode(raw)[2]))
    except DamagedError as damage:
        return FileChoice("damaged", damage.detail, damage.line)


def decode(raw: bytes) -> tuple[bytes, str, str]:
    """Return byte order mark, encoding and text. UTF-16 is what PowerShell's `>` writes."""
    marks = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
    mark, encoding = next(((m, e) for m, e in marks if raw.startswith(m)), (b"", "utf-8"))
    try:
        return mark, encoding, raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise DamagedError(f"not {encoding.upper()} text", 1 + raw[: error.start].count(b"\n")) from None


def compose(text: str) -> MappingNode:
    """Parse `text` to its mapping. Raises `DamagedError`."""
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
                raise DamagedError("nested too deeply", event.start_mark.line + 1)
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
        raise DamagedError(f"not YAML: {problem}", place.line + 1 if place else None) from None
    # The document may be closed with another `---`, if nothing follows.
    if not documents or all(_is_empty(node) for node in documents):
        raise DamagedError("the file is empty")
    mapping = documents[0]
    if not isinstance(mapping, yaml.MappingNode):
        raise DamagedError("not a list of `key: value`", mapping.start_mark.line + 1)
    for node in documents[1:]:
        if not _is_empty(node):
            raise DamagedError("more than one document", node.start_mark.line + 1)
    return mapping


def read_mapping(mapping: MappingNode) -> FileChoice:
    """Return the meaning of a file that holds this mapping."""
    ids = [value for _, value in _pairs(mapping, "id") if not _is_empty(value)]
    found_id = canonical(ids[-1].value) if ids and isinstance(ids[-1].value, str) else None
    deciding: FileChoice | None = None
    for key, value in _pairs(mapping, "telemetry"):
        said_here, line, shown = meaning(value), key.start_mark.line + 1, f"{key.value}: {_quoted(value)}"
        if said_here is False:
            return FileChoice("off", shown, line, found_id)
        if said_here is None:
            deciding = FileChoice("damaged", f"`{shown}` is neither yes nor no", line, found_id)
        elif deciding is None:
            deciding = FileChoice("on", shown, line, found_id)
    if deciding is not None and deciding.state == "damaged":
        return deciding
    if ids and found_id is None:
        # Cut off by a full disk, or mistyped: more may be missing.
        return FileChoice("damaged", "the id is not a UUID", ids[-1].start_mark.line + 1)
    if deciding is None:
        # `enabled: false`, `telemtry: false`, `{telemetry:false}`: somebody wanted to say something.
        for key, _ in mapping.value:
            if not _is_named(key, "id"):
                detail = f"`{_quoted(key)}` is no key of this file, and there is no `telemetry`"
                return FileChoice("damaged", detail, key.start_mark.line + 1, found_id)
    return deciding or FileChoice("on", NO_CHOICE, None, found_id)


def own_pairs(mapping: MappingNode, name: str) -> list[tuple[Node, Node]]:
    """Return the pairs of `mapping` with the key `name`, in the file's order."""
    return [(key, value) for key, value in mapping.value if _is_named(key, name)]


def _pairs(mapping: MappingNode, name: str) -> list[tuple[Node, Node]]:
    """Return the pairs of `mapping` with the key `name`, else those of its merged mappings (`<<`)."""
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
        if pairs := own_pairs(level, name):
            return pairs
        levels.extend(value for key, value in level.value if key.value == _MERGE)
    return []


def meaning(value: Node) -> bool | None:
    """Return the yes or no in a node, None when it is neither."""
    return said(value.value) if isinstance(value.value, str) else None


def _is_named(key: Node, name: str) -> bool:
    return isinstance(key.value, str) and key.value.strip().lower() == name


def _is_empty(node: Node) -> bool:
    """Whether `node` is YAML's null, written or left out."""
    return isinstance(node.value, str) and node.tag == "tag:yaml.org,2002:null"


def _quoted(value: Node) -> str:
    """Return the file's text for `value`, cut to fit a message."""
    if not isinstance(value.value, str):
        return "…"
    return shortened(" ".join(value.value.split()))
