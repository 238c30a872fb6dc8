"""Functions that fail in every usual way, and the properties of the exceptions they raise."""

from __future__ import annotations

import itertools
import re
import traceback
import types

from atotelemetry.host.exceptions import exception_properties
from atotelemetry.host.values import Walk
from support_posthog_rules import check_exception_properties


def caught(function, *arguments):
    """Return the exception that `function` raises, with its traceback."""
    try:
        function(*arguments)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def described(exception, **options):
    """Return the properties of `exception`, checked against PostHog's rules."""
    properties = exception_properties(exception, Walk(), distinct_id="somebody", **options)
    check_exception_properties(properties)
    return properties


def entries_of(exception, **options):
    return described(exception, **options)["$exception_list"]


def frames_of(exception, **options):
    return entries_of(exception, **options)[0]["stacktrace"]["frames"]


def printed(exception):
    """Return what the standard library prints, but for the names that it suggests."""
    text = "".join(traceback.format_exception(exception))
    return re.sub(r"\. Did you (mean:?|forget to import) '.*$", "", text, flags=re.MULTILINE)


def fail(message="it broke"):
    raise ValueError(message)


def fail_in_between(message="it broke"):
    fail(message)


def fail_with_cause():
    try:
        fail("the root")
    except ValueError as error:
        raise KeyError("the wrapper") from error


def chained(errors):
    """Return the last of `errors`, each the cause of the next."""
    for cause, error in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[-1]


def with_entries(error, lines):
    """Return `error` with a traceback of `caught`, at these lines, and `fail`."""
    entry = caught(fail).__traceback__
    frame, entry = entry.tb_frame, entry.tb_next
    for line in reversed(lines):
        entry = types.TracebackType(entry, frame, -1, line)
    return error.with_traceback(entry)


def fail_with_context():
    try:
        fail("the first")
    except ValueError:
        raise KeyError("while handling it")  # noqa: B904  # the implicit context is the point


def fail_with_suppressed_context():
    try:
        fail("the hidden one")
    except ValueError:
        raise KeyError("the shown one") from None


def fail_with_group():
    members = [
        caught(fail, "one"),
        caught(fail_with_cause),
        ExceptionGroup("inner", [caught(fail, "three"), TypeError("never raised")]),
    ]
    raise ExceptionGroup("outer", members)


def fail_with_notes():
    error = ValueError("noted")
    error.add_note("first\nsecond line")
    error.add_note("second")
    raise error


def fail_with_syntax():
    compile("value = (1 +\n", "given.py", "exec")


def fail_recursively(depth):
    fail_recursively(depth - 1) if depth else fail()


def fail_in_turns(depth):
    if depth == 0:
        fail()
    fail_in_turns_too(depth - 1)


def fail_in_turns_too(depth):
    fail_in_turns(depth)


def fail_in_text():
    exec(compile("def inner():\n    1 / 0\ninner()", "<made up>", "exec"), {"__name__": "made_up"})


def fail_over_lines():
    fail(
        "onetwo",
    )


def share_an_exception():
    shared = caught(fail, "shared")
    first, second = ValueError("first"), ValueError("second")
    first.__context__ = shared
    second.__context__ = shared
    raise ExceptionGroup("both", [first, shared, second]) from shared


def chain_long(length=30):
    error = ValueError("0")
    for number in range(1, length):
        outer = ValueError(str(number))
        outer.__context__ = error
        error = outer
    raise error


def raise_(error):
    raise error


def caught_with_odd_globals(kind):
    """Return an exception out of a module with a key that raises `kind`, and a function that ends this."""
    armed = []

    class Key:
        def __hash__(self):
            return hash("__name__")

        def __eq__(self, other):
            if armed:
                raise kind
            return False

    names = {Key(): 1}
    exec("def odd():\n    1 / 0", names)
    error = caught(names["odd"])
    armed.append(1)
    return error, armed.clear


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class NotText(Exception):
    def __str__(self):
        return 42  # noqa: PLE0307  # the misbehaviour is the point


class Fatal(Exception):
    def __str__(self):
        raise SystemExit(3)


class Dressed(str):
    __slots__ = ()

    def __len__(self):
        raise RuntimeError("measured")


class WithDressedText(Exception):
    def __str__(self):
        return Dressed("dressed")


class Masked(Exception):
    @property
    def __class__(self):
        raise RuntimeError("who asks?")


class Impostor(Exception):
    __class__ = int


class Untouchable(Exception):
    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __setattr__(self, name, value):
        raise RuntimeError(name)


class Generous(Exception):
    def __getattr__(self, name):
        return self


class Hollow(Exception):
    def __len__(self):
        return 0

    def __bool__(self):
        raise RuntimeError("neither")

    def __eq__(self, other):
        raise RuntimeError("equal?")

    __hash__ = None


class OddMeta(type):
    def __getattribute__(cls, name):
        if name in {"__module__", "__qualname__", "__name__"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)


class OddlyTyped(Exception, metaclass=OddMeta):
    pass


class Endless(ExceptionGroup):
    @property
    def exceptions(self):
        return (self, self)


class Junk(ExceptionGroup):
    @property
    def exceptions(self):
        return (1, None, ValueError("real"))


class PrivateParts:
    def __dir__(self):
        raise SystemExit(4)


HOSTILE = {
    "mute": Mute(),
    "number for text": NotText(),
    "exits when printed": Fatal(),
    "subclass of str": WithDressedText(),
    "class raises": Masked("m"),
    "class lies": Impostor("i"),
    "every attribute raises": Untouchable("u"),
    "every attribute is itself": Generous("g"),
    "no truth, no equality": Hollow("h"),
    "metaclass raises": OddlyTyped("o"),
    "group of itself": Endless("e", [ValueError("x")]),
    "group of junk": Junk("j", [ValueError("x")]),
    "dir exits": AttributeError("a", name="b", obj=PrivateParts()),
    "no class of its own module": type("Nowhere", (Exception,), {"__module__": 7})("n"),
    "name of surrogates": ValueError("\udcff\ud800"),
    "null characters": ValueError("a\x00b" * 10),
}


def wrapped(error):
    outer = RuntimeError("outer")
    outer.__cause__ = error
    return outer
