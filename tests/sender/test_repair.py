"""`sender/repair.py`: integers beyond 64 bits become text, everything else stays as it was, byte for byte."""

import json
import sys
import tracemalloc

import pytest

from atotelemetry.sender import repair
from atotelemetry.sender.repair import mend_integers


@pytest.mark.parametrize("value", [2**64, 2**70, -(2**63) - 1, 10**400, -(10**400)])
def test_an_integer_beyond_64_bits_becomes_text(value):
    """It arrives as its digits, wherever it stands."""
    raw = b'{"a":%d,"b":[1,%d],"c":{"d":%d}}' % (value, value, value)
    assert json.loads(mend_integers(raw)) == {"a": str(value), "b": [1, str(value)], "c": {"d": str(value)}}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":18446744073709551615,"b":-9223372036854775808}',
        b'{"a":"99999999999999999999999999"}',
        b'{"a":"\\"99999999999999999999999999"}',
        b'{"99999999999999999999999999":1}',
        b'{"a":0.12345678901234567890123456789}',
        b'{"a":1.5e300,"b":12345678901234567890123e-5}',
        b'{"a":-999999999999999999,"b":-1000000000000000000,"c":[999999999999999999,-0.5e-10]}',
        b'{"a":1234567890.123456789012345e+10,"b":-12345678901234567890E2,"c":1e19}',
        b"{}",
    ],
)
def test_everything_else_stays_as_it_is(raw):
    """Numbers that fit, fractions, and digits inside texts and names are not touched."""
    assert mend_integers(raw) == raw


def test_small_numbers_cost_nothing_beside_a_large_one():
    """A long array is not looked at number by number because of one of them."""
    calls = []
    raw = b"[" + b"1," * 2100 + b"-1.5e3,18446744073709551616]"
    sys.setprofile(lambda frame, happens, _: calls.append(frame.f_code.co_filename) if happens == "call" else None)
    try:
        mended = mend_integers(raw)
    finally:
        sys.setprofile(None)
    assert mended == raw.replace(b"18446744073709551616", b'"18446744073709551616"')
    assert calls.count(repair.__file__) == 2, "one for the text, one for the large number"


@pytest.mark.parametrize("text", ["x" * 850_000, "\\n" * 425_000, 'x\\"' * 280_000], ids=["plain", "escapes", "quotes"])
def test_a_long_text_beside_a_large_integer_costs_little_memory(text):
    """The expression remembers nothing of a text's characters, or each would take a hundred bytes."""
    raw = f'{{"a":"{text}","n":{2**70}}}'.encode()
    tracemalloc.start()
    try:
        mended = mend_integers(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert mended == raw.replace(b"%d" % 2**70, b'"%d"' % 2**70)
    assert peak < 10 * 1024 * 1024
