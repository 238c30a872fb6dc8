"""An event that is too large: which properties are cut, how, and how the event says so."""

from __future__ import annotations

import itertools

import pytest

from atotelemetry.host import cut
from atotelemetry.host.cut import CUT_PROPERTY, cut_to_fit, without_surrogates
from support_values import encode

LIMIT = 900 * 1024


def test_what_fits_is_copied():
    """Properties that fit come back as they are, in a new dict."""
    properties = {"a": 1, "b": ["x"]}
    result = cut_to_fit(properties, LIMIT)
    assert result == properties
    assert result is not properties


def test_the_longest_text_is_cut():
    """A long text keeps as much of its beginning as fits and says how long it was; the others stay whole."""
    properties = {"short": "s", "long": "0123456789" * 500_000, "list": list(range(1000)), "last": None}
    result = cut_to_fit(properties, LIMIT)
    assert LIMIT - 5000 < len(encode(result)) <= LIMIT
    assert result["long"].startswith("0123456789" * 80_000)
    assert result["long"].endswith("… [cut: 5000000 characters]")
    assert result[CUT_PROPERTY] == ["long"]
    assert {name: result[name] for name in ("short", "list", "last")} == {
        name: properties[name] for name in ("short", "list", "last")
    }


def test_a_large_container_is_replaced():
    """A list or dict is not torn apart: a text says how large it was."""
    value = {"rows": ["x" * 100] * 10_000}
    result = cut_to_fit({"data": value, "n": 1}, LIMIT)
    assert result == {"data": f"[cut: {len(encode(value))} bytes]", "n": 1, CUT_PROPERTY: ["data"]}


@pytest.mark.parametrize(
    "text",
    ["\x00" * 2_000_000, "😀" * 500_000, "\x00" * 150_000 + "a" * 2_000_000, "a" * 500_000 + '"\n\x01' * 500_000],
    ids=["escapes", "emoji", "heavy beginning", "heavy end"],
)
def test_text_whose_characters_take_several_bytes(text):
    """Bytes are what is limited: text full of escapes is cut sooner, and still keeps what it can."""
    result = cut_to_fit({"text": text, "n": 1}, LIMIT)
    assert len(encode(result)) <= LIMIT
    assert result["n"] == 1
    assert text.startswith(result["text"].split("…")[0])
    assert len(encode(result)) > LIMIT - 10_000


def test_many_long_texts():
    """Where cutting one does not suffice the next longest follow, and what was short stays whole."""
    properties = {f"p{index}": str(index) * 3000 for index in range(1000)} | {"n": 1, "short": "x" * 60}
    result = cut_to_fit(properties, LIMIT)
    assert len(encode(result)) <= LIMIT
    assert len(result) == len(properties) + 1
    assert (result["n"], result["short"]) == (1, "x" * 60)


def test_a_hundred_thousand_small_properties():
    """Small properties in great number lose their last ones, and the event says how many."""
    properties = {f"property_{index}": index for index in range(100_000)}
    result = cut_to_fit(properties, LIMIT)
    assert LIMIT - 10_000 < len(encode(result)) <= LIMIT
    kept = len(result) - 1
    assert list(result.items())[:kept] == list(properties.items())[:kept]
    assert result[CUT_PROPERTY] == [f"and the last {100_000 - kept} properties"]


@pytest.mark.parametrize("text", ["x" * 200, "\0" * 32], ids=["long", "escapes"])
def test_many_small_texts_are_not_cut(monkeypatch, text):
    """There, too, the last ones are left out; each is encoded once, to be measured, as is its name."""
    encoded = []
    monkeypatch.setattr(cut, "encode", lambda value: encoded.append(1) or encode(value))
    result = cut_to_fit(dict.fromkeys(map(str, range(10_000)), text), LIMIT)
    assert LIMIT - 10_000 < len(encode(result)) <= LIMIT
    kept = len(result) - 1
    assert list(result.items())[:kept] == [(str(number), text) for number in range(kept)]
    assert result[CUT_PROPERTY] == [f"and the last {10_000 - kept} properties"]
    assert len(encoded) < 20_010


def test_names_that_are_too_long():
    """A name can be the large part; it is cut too, and no property vanishes because names became alike."""
    properties = {"n" * 2_000_000: 1, "n" * 2_000_001: 2, "b": 3}
    result = cut_to_fit(properties, LIMIT)
    assert len(encode(result)) < 10_000
    assert sorted(value for name, value in result.items() if name != CUT_PROPERTY) == [1, 2, 3]


@pytest.mark.parametrize("limit", [0, 1, 2, 10, 50, 100, 200, 500, 1000, 5000, 20_000])
def test_every_limit_is_kept(limit):
    """However small the limit, what comes back fits into it."""
    properties = {f"p{index}": "x" * index for index in range(300)} | {"big": "y" * 10_000, "list": [1] * 1000}
    assert len(encode(cut_to_fit(properties, limit))) <= max(limit, 2)


def test_an_encoder_that_fails(monkeypatch):
    """Cutting never raises, not even when what is to be measured cannot be encoded."""

    def broken(value):
        raise ValueError

    monkeypatch.setattr(cut, "encode", broken)
    assert cut_to_fit({"a": 1}, LIMIT) == {}


def test_surrogates_become_what_utf_16_makes_of_them():
    """Pairs become their character and lone ones U+FFFD, beside any other character."""
    for characters in itertools.product("a?!.+\ufffd\uffff\ud83d\udbff\ude00\udfff\U0001f600", repeat=4):
        text = "".join(characters)
        expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        assert without_surrogates(text) == expected, ascii(text)
