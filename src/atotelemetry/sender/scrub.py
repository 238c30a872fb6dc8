r"""Masks home directories and secrets in the description of an exception.

Runs in the sender, so it costs the host nothing. Only `$exception` events are decoded and encoded anew, and only their
properties to mask. Other events keep the host's bytes. The list is fixed:

- the home directory, and user names in /home/NAME, /Users/NAME and C:\Users\NAME, become `~` at the start of a path
- passwords in URLs, and values after `Bearer`, `password=`, `api_key:`, `--token` and the like
- keys of AWS, GitHub, GitLab, Slack, Stripe, Google and PyPI, JSON web tokens, and private key blocks

Each pattern takes linear time for any text: it begins with something fixed and has an upper limit.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from atotelemetry.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from atotelemetry.wire import Event

    Common = dict[str, msgspec.Raw]

__all__ = ["Scrubber", "masked"]

MASK = "***"

_EVENT = "$exception"
_PREFIX = "$exception"
_PERSON = "$exception_person"  # must stay equal to the distinct_id

# Words for a secret, as the end of a name: `DB_PASSWORD`, `--api-key`, "clientSecret".
_NAMES = (
    r"(?:password|passwd|passphrase|pwd|secret|token|credentials?|authorization|"
    r"api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|account[_-]?key)"
)
_IS_NAME = re.compile(rf"(?i){_NAMES}$")
_IS_FLAG = re.compile(rf"(?i)^--?[\w-]{{0,64}}{_NAMES}$")

# A quoted text, or a text up to the next space, comma, bracket or quote.
_VALUE = r"""(?:"[^"\n]{1,2000}"|'[^'\n]{1,2000}'|\\"[^"\n]{1,2000}\\"|[^\s"',;&)\]}>]{1,2000})"""

_Rule = tuple[re.Pattern[str], "str | Callable[[re.Match[str]], str]"]


def _private_key(match: re.Match[str]) -> str:
    return MASK + "\n" * match[0].count("\n")  # the number of lines stays the same


_SECRETS: tuple[_Rule, ...] = (
    (
        re.compile(r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[^-]{0,16000}(?:-----END [A-Z ]{0,32}PRIVATE KEY-----)?"),
        _private_key,
    ),
    (re.compile(r"(?i)(://[^\s:/@'\"]{0,256}:)[^\s/'\"]{1,256}(?=@)"), rf"\g<1>{MASK}"),
    (re.compile(r"(?i)(\bbearer\s{1,4})[\w.~+/=-]{6,4000}"), rf"\g<1>{MASK}"),
    (
        re.compile(
            r"(?i)(\bauthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:basic|token|digest|apikey)\s{1,4})[^\s\"',;]{1,4000}"
        ),
        rf"\g<1>{MASK}",
    ),
    (
        re.compile(
            rf"(?i)({_NAMES}(?:\\?[\"'])?\s{{0,4}}[:=](?!=)"
            r"(?:\s{1,4}(?![\w.]{1,100}[(\[])|))"  # `token = tokens[0]` is code and tells nothing
            r"(?!(?:bearer|basic|token|digest|apikey)\s)"  # masked above
            rf"(?!(?:str|bytes|int|bool|None|True|False|Any)\b){_VALUE}"  # `password=None` is code, too
        ),
        rf"\g<1>{MASK}",
    ),
    (re.compile(rf"(?i)((?<![\w-])--?[\w-]{{0,64}}{_NAMES}\s{{1,4}})(?!-){_VALUE}"), rf"\g<1>{MASK}"),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA|AGPA|AIPA|ANPA|ANVA)[A-Z0-9]{16}\b"), MASK),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,255}"), MASK),
    (re.compile(r"\bgithub_pat_\w{20,255}"), MASK),
    (re.compile(r"\bglpat-[\w-]{16,255}"), MASK),
    (re.compile(r"\bxox[abeoprs]-[\w-]{8,255}"), MASK),
    (re.compile(r"\bxapp-[\w-]{8,255}"), MASK),
    (re.compile(r"(\bhooks\.slack\.com/(?:services|workflows)/)[\w/-]{8,255}"), rf"\g<1>{MASK}"),
    (re.compile(r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{10,255}"), MASK),
    (re.compile(r"\bAIza[\w-]{35}"), MASK),
    (re.compile(r"\bpypi-[\w-]{16,1000}"), MASK),
    (re.compile(r"\beyJ[\w-]{6,4000}\.eyJ[\w-]{6,8000}(?:\.[\w-]{0,4000})?"), MASK),
)

# A path begins after a space, a quote, a bracket or a scheme, not inside another path.
_BEGINS = r"(?:(?<=://)|(?<![\w./\\~-]))"
_USERS = (
    # A name on Windows may have spaces, where a backslash says how far it goes. In a `repr` each is doubled.
    re.compile(
        r"(?i)(?<![\w])[a-z]:[\\/]{1,4}Users[\\/]{1,4}"
        r"(?:[^\\/:*?\"<>|\r\n]{1,64}?(?=[\\/])|[^\\/\s:*?\"'<>|,;()]{1,64})"
    ),
    re.compile(rf"{_BEGINS}/(?:home|Users|(?:mnt/)?[a-z]/Users)/[^/\\\s:\"'<>|,;()\[\]{{}}]{{1,64}}"),
)


def masked(event: Event, common: Common, scrub: bool | tuple[str, ...]) -> tuple[Event, Common]:
    """Return an event, and the properties common to its run, as they may be sent.

    `scrub` is the setting of a hello. Events other than `$exception` stay as they are.
    """
    if event.event != _EVENT or scrub is False:
        return event, common
    scrubber = _scrubber(() if scrub is True else scrub)
    if bytes(event.properties) not in (b"", b"null"):
        properties = scrubber.properties(msgspec.json.decode(event.properties, type=dict[str, msgspec.Raw]))
        event = msgspec.structs.replace(event, properties=msgspec.Raw(encode(properties)))
    return event, scrubber.properties(common)


@cache
def _scrubber(names: tuple[str, ...]) -> Scrubber:
    return Scrubber(names)


class Scrubber:
    """Masks texts, and properties named `$exception…` or one of `names`. `homes` are this user's by default."""

    def __init__(self, names: Collection[str] = (), *, homes: Collection[str] | None = None) -> None:
        self._names = frozenset(names)
        found = [home for home in map(_usable, _homes() if homes is None else homes) if home]
        self._homes = [
            re.compile(rf"{_BEGINS}{pattern}(?![\w.-])", re.IGNORECASE if os.name == "nt" else 0)
            for pattern in map(_home_pattern, dict.fromkeys(found))
        ]

    def properties(self, properties: Common) -> Common:
        """Return properties, of which those to mask are masked."""
        return {name: self._raw(value) if self._is_meant(name) else value for name, value in properties.items()}

    def text(self, text: str) -> str:
        """Return a text with its home directories and secrets masked."""
        for rule in self._homes:
            text = rule.sub("~", text)
        for rule in _USERS:
            text = rule.sub("~", text)
        for rule, instead in _SECRETS:
            text = rule.sub(instead, text)
        return text

    def _is_meant(self, name: str) -> bool:
        return (name.startswith(_PREFIX) and name != _PERSON) or name in self._names

    def _raw(self, value: msgspec.Raw) -> msgspec.Raw:
        return msgspec.Raw(encode(self._value(msgspec.json.decode(value))))

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return self._list(value)
        if isinstance(value, dict):
            return self._dict(value)
        return value

    def _list(self, values: list[Any]) -> list[Any]:
        masked = [self._value(value) for value in values]
        for number, value in enumerate(values[:-1]):  # ["--password", "secret"]
            if isinstance(value, str) and isinstance(values[number + 1], str) and _IS_FLAG.match(value):
                masked[number + 1] = MASK
        return masked

    def _dict(self, values: dict[str, Any]) -> dict[str, Any]:
        masked = {self.text(name): self._value(value) for name, value in values.items()}
        for name, value in values.items():
            if isinstance(value, (str, int, float)) and not isinstance(value, bool) and _IS_NAME.search(name[-64:]):
                masked[self.text(name)] = MASK
        if isinstance(values.get("context_line"), str):
            self._mask_source(values, masked)
        return masked

    def _mask_source(self, frame: dict[str, Any], masked: dict[str, Any]) -> None:
        """Mask the lines of a frame together: a private key goes over many."""
        before, after = frame.get("pre_context"), frame.get("post_context")
        lines = [*(before or ()), frame["context_line"], *(after or ())]
        if not all(isinstance(line, str) for line in lines):
            return
        clean = self.text("\n".join(lines)).split("\n")
        if len(clean) == len(lines) and before is not None:
            place = len(before)
            masked["pre_context"], masked["context_line"] = clean[:place], clean[place]
            masked["post_context"] = clean[place + 1 :]


def _homes() -> list[str]:
    home = os.path.expanduser("~")
    # Traces have the name that the file system knows, which may be another one.
    return [home, os.path.realpath(home), os.environ.get("HOME", ""), os.environ.get("USERPROFILE", "")]


def _usable(home: str) -> str:
    """Return a home directory without the final separator; an empty text for the root, which is no home."""
    home = home.rstrip("/\\")
    return home if re.match(r"/+[^/]|[A-Za-z]:[\\/]+[^\\/]|\\\\", home) else ""


def _home_pattern(home: str) -> str:
    """Return a pattern for a home directory; Windows takes both separators, and a `repr` doubles one of them."""
    return r"[\\/]{1,4}".join(map(re.escape, re.split(r"[\\/]", home))) if "\\" in home else re.escape(home)
