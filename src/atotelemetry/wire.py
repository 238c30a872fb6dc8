"""The messages between the host and the sender: one JSON object per line.

Pure: bytes in, messages out. No I/O, no clock, no threads, so both processes and every test can use it freely. The host
encodes each event once; the sender keeps an event's `properties` and `context` as raw JSON (`msgspec.Raw`) and never
re-encodes a value. Four kinds of line:

    {"type": "hello", …}   first: settings of this run, and the properties common to all its events
    {"uuid": …, "event": …, …}   any number: in the form that PostHog takes
    {"type": "forked"}     after each fork of a watched host
    {"type": "end", …}     last: the host's counts

A second pipe leads back, for the sender's answers:

    {"type": "ready"}      once: the sender reads its input
    {"type": "outcome", …} whenever the fate of events is known: counts since this sender began

A line that is corrupt, truncated or too long costs that line alone. Because a stream is plain text, a person can write,
read, `tee` and replay one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from atotelemetry.ids import is_uuid

if TYPE_CHECKING:
    from msgspec.json import Decoder, Encoder
    from msgspec.json import decode as decode_json
    from msgspec.msgpack import decode as decode_msgpack
else:
    try:  # `msgspec.json` would load what describes schemas, a tenth of a host's first event
        from msgspec._core import JSONDecoder as Decoder
        from msgspec._core import JSONEncoder as Encoder
        from msgspec._core import json_decode as decode_json
        from msgspec._core import msgpack_decode as decode_msgpack
    except ImportError:
        from msgspec.json import Decoder, Encoder
        from msgspec.json import decode as decode_json
        from msgspec.msgpack import decode as decode_msgpack

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_EVENT_BYTES",
    "PROTOCOL_VERSION",
    "Answer",
    "AnswerDecoder",
    "CorruptLine",
    "End",
    "Event",
    "Forked",
    "Hello",
    "LineDecoder",
    "LineError",
    "LineTooLong",
    "Message",
    "NotAnEvent",
    "Outcome",
    "OutgoingEvent",
    "Ready",
    "Watch",
    "decode_json",
    "decode_msgpack",
    "encode",
]

PROTOCOL_VERSION = 1

# PostHog refuses events of about 1 MB (https://posthog.com/docs/api/capture); the sender still adds a little.
MAX_EVENT_BYTES = 900 * 1024

# Up to this size a pipe takes a line whole or not at all (PIPE_BUF in pipe(7)).
MAX_ANSWER_BYTES = 4096

encode = Encoder().encode


class LineError(Exception):
    """A line of the stream that was lost; `line_number` counts from 1.

    `is_hello`: the line looks like a damaged hello. Later events must not go to the previous server.
    `line`: the bytes of a line that is no JSON.
    """

    fault = ""

    def __init__(self, line_number: int, detail: str = "", *, is_hello: bool = False, line: bytes = b"") -> None:
        super().__init__(line_number, detail)
        self.line_number = line_number
        self.detail = detail
        self.line = line
        self.is_hello = is_hello

    def __str__(self) -> str:
        return f"line {self.line_number}: {self.fault}{f' ({self.detail})' if self.detail else ''}"


class CorruptLine(LineError):
    """A line that is no JSON: damaged, or cut off by its writer's death."""

    fault = "not valid JSON"


class NotAnEvent(LineError):
    """A line that is JSON, but not a message of this protocol."""

    fault = "not an event"


class LineTooLong(LineError):
    """A line over `MAX_EVENT_BYTES`; its bytes were dropped as they arrived."""

    fault = f"longer than {MAX_EVENT_BYTES} bytes"


class Watch(msgspec.Struct, kw_only=True):
    """The watched host: its process, and the wanted reports."""

    pid: int
    started: int | None = None
    """The process's start time, field 22 of `/proc/PID/stat`. None where the system has none."""
    began: float
    """When the run began: seconds since 1970."""
    crash: bool = False
    """Whether to report the end of the host if it comes without `end`."""
    hang_after: float | None = None
    """Seconds of silence after which the host is asked for its stacks. None: never."""
    vanished: str = "run_vanished"
    """Name of the event for an end that leaves no dump."""
    choice: tuple[str, tuple[int, ...] | None] | None = None
    """The file that says yes, and its inode, times of change and size then (None: no file). Another state is no yes."""
    own: tuple[str, ...] = ()
    """Import names of the application's code, whose frames are in-app; without any, all code but libraries is."""


class Hello(msgspec.Struct, tag="hello", tag_field="type", kw_only=True, omit_defaults=True):
    """Settings for one sender: the first line of a stream."""

    protocol: int
    api_key: str
    host: str
    """Base URL of the PostHog-compatible server."""
    app: str = "atopile"
    app_version: str | None = None
    """Version of the measured program; None lets the sender look up the installed distribution named `app`."""
    search_path: tuple[str, ...] = ()
    """The host's import path, for metadata of `app`: the sender imports nothing from it. Empty: the sender's own."""
    endpoint: str = "auto"
    compression: bool | None = None
    max_retries: int = 1
    request_timeout: float = 5.0
    sender_deadline: float = 15.0
    properties: msgspec.Raw = msgspec.Raw(b"{}")
    """Properties common to the whole run, an encoded object; an event's own win."""
    run_properties: tuple[str, ...] = ()
    """Names of the run properties that the sender works out (see `facts/run.py`)."""
    cwd: str | None = None
    """The host's working directory, where the sender looks for the git facts."""
    is_tty: bool | None = None
    """Whether the host's stdout is a terminal."""
    salt: str = ""
    """The installation's id, mixed into the `project_id` of applications other than atopile."""
    scrub: bool | tuple[str, ...] = True
    """Whether `$exception` events are masked; names are properties to mask besides those named `$exception…`."""
    capture_protocol: str = "v0"
    """"v0": /capture/ and /batch/; "v1": the endpoint that gives a verdict on every event."""
    historical_migration: bool = False
    """Whether the events are an import of old ones."""
    disable_geoip: bool = True
    """Whether events ask PostHog not to look up a place for the sender's address."""
    patient: bool = False
    """Whether events are kept through an outage: retried while the host lives; without room the oldest are dropped."""
    watch: Watch | None = None
    """The host to report the end of. None: no report is wanted."""


class Forked(msgspec.Struct, tag="forked", tag_field="type"):
    """The host has forked. From now on an input that ends without `end` does not mean that the host was ended."""


class End(msgspec.Struct, tag="end", tag_field="type", kw_only=True, omit_defaults=True):
    """The host's counts when it closed the pipe: the last line of a stream."""

    captured: int = 0
    dropped: int = 0
    discard: bool = False
    """Whether the person said no meanwhile: the sender drops every event that it has not posted."""


class Ready(msgspec.Struct, tag="ready", tag_field="type"):
    """The sender reads its input. The first answer; a sender that ends without it never worked."""


class Outcome(msgspec.Struct, tag="outcome", tag_field="type", kw_only=True, omit_defaults=True):
    """The fate of the events that this sender has read so far.

    Counts are cumulative: the next line makes up for one that a full pipe refused.
    """

    delivered: int = 0
    dropped: dict[str, int] = {}
    """Number of events by reason (the reasons stand in `sender/reasons.py`)."""
    added: int = 0
    """Number of events that are the sender's own reports: they are among the counts."""
    last: bool = False
    """Whether this sender says no more. Events that it was given and that are not counted here were never read."""


Answer = Ready | Outcome


class Event(msgspec.Struct, kw_only=True):
    """One event as the sender reads it: `properties` and `context` stay encoded, empty where the line had none."""

    event: str = ""
    uuid: str | None = None
    distinct_id: str | int | None = None
    timestamp: str | None = None
    properties: msgspec.Raw = msgspec.Raw()
    context: msgspec.Raw = msgspec.Raw()
    type: str | None = None
    """None for an event. Only the decoder looks at it, so that one decoding serves every kind of line."""
    size_bytes: int | Any = 0
    """Length of its line. The sender's buffer and requests are limited by it.

    `Any`, so that nothing of this name in a line can spoil it: the decoder puts the length in its place.
    """


Message = Hello | Forked | End | Event
_OTHER_KINDS: dict[str, type[Hello | Forked | End]] = {"hello": Hello, "forked": Forked, "end": End}


class OutgoingEvent(msgspec.Struct, omit_defaults=True, gc=False):
    """One event as the host writes it: any value that msgspec can encode."""

    uuid: str
    event: str
    distinct_id: str
    timestamp: Any
    properties: Any
    context: Any = None


class LineDecoder:
    """Turns the bytes of a stream, cut anywhere, into messages and line errors.

    Keeps at most one unfinished line. What comes after its first `MAX_EVENT_BYTES` is dropped as it comes.
    """

    def __init__(self) -> None:
        self._decode_event = Decoder(Event).decode
        self._partial = bytearray()
        self.line_number = 0
        """Number of lines finished so far."""

    def feed(self, data: bytes) -> list[Message | LineError]:
        """Take the next bytes; return the messages and errors that they completed, in order."""
        *lines, rest = data.split(b"\n")
        results: list[Message | LineError] = []
        for line in lines:
            self._finish(line, results)
        self._keep(rest)
        return results

    def close(self) -> list[Message | LineError]:
        """Take the end of the stream: a last line without newline counts, a torn one is reported."""
        results: list[Message | LineError] = []
        if self.in_a_line:
            self._finish(b"", results)
        return results

    @property
    def in_a_line(self) -> bool:
        """Whether the bytes so far end inside a line."""
        return bool(self._partial)

    def _keep(self, rest: bytes) -> None:
        self._partial += rest[: MAX_EVENT_BYTES + 1 - len(self._partial)]  # one more tells that it is too long

    def _finish(self, line: bytes, results: list[Message | LineError]) -> None:
        self.line_number += 1
        if self._partial:
            self._keep(line)
            line = bytes(self._partial)
            self._partial.clear()
        if len(line) > MAX_EVENT_BYTES:
            results.append(LineTooLong(self.line_number, is_hello=_names_a_hello(line)))
            return
        if self.line_number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors begin a file with
        if not line or line.isspace():
            return
        results.append(self._decode(line))

    def _decode(self, line: bytes) -> Message | LineError:
        try:
            event = self._decode_event(line)
            kind = _OTHER_KINDS.get(event.type or "")
            if kind is not None:
                return decode_json(line, type=kind)
        except msgspec.ValidationError as error:
            return NotAnEvent(self.line_number, str(error), is_hello=_names_a_hello(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return CorruptLine(self.line_number, str(error), is_hello=_names_a_hello(line), line=line)
        problem = _problem(event)
        if problem:
            return NotAnEvent(self.line_number, problem)
        event.size_bytes = len(line)
        return event


class AnswerDecoder:
    """Turns the bytes of the answer pipe, cut anywhere, into answers. Ignores any line that is none.

    Keeps at most `MAX_ANSWER_BYTES` of an unfinished line.
    """

    def __init__(self) -> None:
        self._decode = Decoder(Answer).decode
        self._partial = b""

    def feed(self, data: bytes) -> list[Answer]:
        """Take the next bytes; return the answers that they completed, in order."""
        *lines, partial = (self._partial + data).split(b"\n")
        self._partial = partial if len(partial) <= MAX_ANSWER_BYTES else b"\0"  # no JSON, however the line goes on
        answers: list[Answer] = []
        for line in lines:
            try:
                answers.append(self._decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
        return answers


def _names_a_hello(line: bytes | bytearray) -> bool:
    """Whether an unreadable line is or contains a hello, perhaps behind a torn line."""
    try:
        return bytes(decode_json(line, type=dict[str, msgspec.Raw]).get("type", b"")) == b'"hello"'
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not even JSON. A hello begins with its mark; an event that merely quotes one names no key beside it.
        text = line.translate(None, b" \t\r")
        return text.startswith(b'{"type":"hello"') or (b'"type":"hello"' in text and b'"api_key":"' in text)


def _problem(event: Event) -> str:
    """Why PostHog would refuse this event, or an empty string."""
    if not event.event:
        return "`event` is missing or empty"
    if event.uuid is not None and not is_uuid(event.uuid):
        return f"`uuid` is no UUID: {event.uuid[:64]!r}"
    for name, raw in (("properties", event.properties), ("context", event.context)):
        if bytes(raw)[:1] not in _OBJECT_OR_NOTHING:
            return f"`{name}` is not an object"
    return ""


_OBJECT_OR_NOTHING = (b"{", b"", b"n")  # an object, no such key, null
