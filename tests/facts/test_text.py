"""Text for a terminal: nothing in it steers, hides or breaks lines."""

from __future__ import annotations

import json

import pytest

from atotelemetry.facts.text import printable

ESCAPED = {
    "escape": ("\x1b[2J", r"\u001b[2J"),
    "c1 control": ("\x9b5n", r"\u009b5n"),
    "delete": ("a\x7f", r"a\u007f"),
    "bell and backspace": ("\a\b", r"\u0007\u0008"),
    "lines": ("a\nb\rc\td", r"a\nb\rc\td"),
    "unicode's line breaks": ("\x85\u2028\u2029", r"\u0085\u2028\u2029"),
    "right-to-left override": ("txt.\u202eexe", r"txt.\u202eexe"),
    "isolates and marks": ("\u2066\u2069\u200e\u200f\u061c", r"\u2066\u2069\u200e\u200f\u061c"),
    "invisible": ("tele\u200bmetry\ufeff", r"tele\u200bmetry\ufeff"),
    "lone surrogate": ("\udce9", r"\udce9"),
    "tag": ("\U000e0041", r"\udb40\udc41"),
}


@pytest.mark.parametrize("name", ESCAPED)
def test_what_steers_a_terminal_is_escaped(name):
    """Control, bidirectional, invisible and line-breaking characters become JSON escapes on one line."""
    text, expected = ESCAPED[name]
    assert printable(text) == expected
    assert printable(text).isprintable()


@pytest.mark.parametrize("text", ["", "plain", "Zoë, 日本語, عربي, 😀", r"C:\Users\me"])
def test_what_people_read_stays(text):
    """Letters of every script, symbols and backslashes are left alone."""
    assert printable(text) == text


def test_characters_to_keep_stay():
    """Whoever prints several lines keeps their line feeds, and nothing else."""
    assert printable("a\n\x1bb\r\n", keep="\n") == "a\n\\u001bb\\r\n"


def test_json_stays_the_same_json():
    """Printed JSON can be parsed to what it was."""
    value = {"\x7f\u202e": ["\x9b\u2028", "\U000e0041", "\\", "a\nb"]}
    assert json.loads(printable(json.dumps(value, indent=2, ensure_ascii=False), keep="\n")) == value
