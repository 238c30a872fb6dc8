"""`Telemetry` and the module-level names that atopile imports: what is captured, for whom, and when nothing is."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import io
import json
import logging
import sys
import threading
import time
import traceback
import types
import uuid
from collections import UserDict

import pytest

import atotelemetry
from atotelemetry.facts import run
from atotelemetry.host import default as module
from atotelemetry.host import telemetry as telemetry_module
from atotelemetry.host.divert import divert
from atotelemetry.host.telemetry import Telemetry
from atotelemetry.testing import CaptureServer
from support_home import ID, files_below, fresh_home, store
from support_hosts import children, hosts_in, needs_proc

NOWHERE = "http://127.0.0.1:9"  # never connected to: what these clients capture is diverted


@pytest.fixture(autouse=True)
def file(monkeypatch, tmp_path):
    """Give the test a home without a file, and no default instance yet; return where the file would be."""
    monkeypatch.setattr(module, "_defaults", {})
    return fresh_home(monkeypatch, tmp_path)


class Recorded:
    """A `Telemetry` whose events are kept instead of sent."""

    def __init__(self, telemetry=None, **options):
        self.telemetry = telemetry or Telemetry(**{"app": "atopile", "api_key": "phc_test", "host": NOWHERE, **options})
        self._lines = []
        divert(self.telemetry.client, self._lines.append)

    @property
    def events(self):
        return [json.loads(line) for line in self._lines]

    @property
    def names(self):
        return [event["event"] for event in self.events]

    def only(self):
        (event,) = self.events
        return event

    def clear(self):
        self._lines.clear()


def click_exit():
    """Return an object of the kind that click raises to end a program."""
    return type("Exit", (RuntimeError,), {"__module__": "click.exceptions", "exit_code": 0})()


@pytest.fixture
def recorded(file):
    store(file, f"id: {ID}\ntelemetry: true\n")
    return Recorded()


@pytest.fixture
def hosts(tmp_path):
    """Real hosts. They may create a `telemetry.yaml`, as first runs do, and nothing else."""
    with hosts_in(tmp_path / "hosts", may_choose=True) as started:
        yield started


def raise_it(error):
    raise error


class TestWith:
    def test_start_and_end(self, recorded):
        """A block that ends well gives two events of one person and one run, the later one with the longer duration."""
        with recorded.telemetry.capture("cli:build_start", "cli:build_end", {"targets": 3}) as block:
            pass
        start, end = recorded.events
        assert block == {}
        assert [start["event"], end["event"]] == ["cli:build_start", "cli:build_end"]
        assert {start["distinct_id"], end["distinct_id"]} == {ID}
        assert start["properties"]["run_id"] == end["properties"]["run_id"]
        assert 0 <= start["properties"]["duration"] < end["properties"]["duration"] < 30
        assert set(start["properties"]) == set(end["properties"]) == {"duration", "run_id", "targets"}

    def test_properties_found_on_the_way(self, recorded):
        """What is put into the block's dict is on the event on leaving, whichever that is, and wins."""
        with recorded.telemetry.capture("start", "end", {"board": "blinky", "files": 0}) as block:
            block["files"] = 12
        with pytest.raises(KeyError), recorded.telemetry.capture("start", "end") as block:
            block["files"] = 13
            raise KeyError
        files = [event["properties"].get("files") for event in recorded.events]
        assert files == [0, 12, None, 13]
        assert recorded.events[1]["properties"]["board"] == "blinky"

    def test_duration_is_that_of_the_block(self, recorded, monkeypatch):
        """`duration` is the block's own seconds: neither the program's, nor what capturing the start event took."""
        clock = iter([100.0, 107.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
        with recorded.telemetry.capture("start", "end"):
            pass
        assert [event["properties"]["duration"] for event in recorded.events] == [0.0, 7.0]

    def test_an_exception_instead_of_the_end(self, recorded):
        """A block that fails gives `$exception` instead of its end event, with the same properties."""
        with pytest.raises(KeyError), recorded.telemetry.capture("start", "end", {"board": "blinky"}):
            raise_it(KeyError("R1"))
        start, failure = recorded.events
        assert (start["event"], failure["event"]) == ("start", "$exception")
        assert failure["distinct_id"] == failure["properties"]["$exception_person"] == ID
        assert failure["properties"]["$exception_type"] == "KeyError"
        assert failure["properties"]["board"] == "blinky"
        assert failure["properties"]["run_id"] == start["properties"]["run_id"]
        assert failure["properties"]["duration"] > start["properties"]["duration"]

    def test_the_exception_goes_on_unchanged(self, recorded):
        """What comes out is the same object, with the same frames at the end of its traceback and nothing chained."""
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught, recorded.telemetry.capture("start", "end"):
            raise_it(error)
        assert caught.value is error
        assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == "raise_it"
        assert all("atotelemetry" not in frame.filename for frame in traceback.extract_tb(error.__traceback__))
        assert error.__cause__ is error.__context__ is None

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
    def test_what_is_no_exception_ends_the_block(self, recorded, kind):
        """Ctrl-C, `sys.exit` and their like are no failure of the block: it ends, they go on."""
        leaving = kind()
        with pytest.raises(kind) as caught, recorded.telemetry.capture("start", "end"):
            raise leaving
        assert caught.value is leaving
        assert recorded.names == ["start", "end"]
        assert recorded.events[1]["properties"]["outcome"] in {"interrupted", "ok", "cancelled"}

    def test_any_other_exception_is_a_failure(self, recorded):
        """Also one that is no `Exception`, such as a group, or the panic of an extension module."""
        panic = type("PanicException", (BaseException,), {})
        for error in (panic(), BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError()])):
            with pytest.raises(type(error)), recorded.telemetry.capture("start", "end"):
                raise error
        assert recorded.names == ["start", "$exception"] * 2

    def test_the_application_s_own_exits(self, recorded):
        """A class in `ignore` ends the block like an exit; its subclasses do, too."""
        recorded.telemetry._ignore = (LookupError,)
        with pytest.raises(KeyError), recorded.telemetry.capture("start", "end", {"outcome": "mine"}):
            raise KeyError
        assert recorded.names == ["start", "end"]
        assert recorded.events[1]["properties"].items() >= {"exit_code": 1, "outcome": "mine"}.items()

    @pytest.mark.parametrize("ignore", [KeyError, [KeyError], ("KeyError",), (KeyError(),)])
    def test_ignored_classes_are_a_tuple(self, ignore):
        """Anything else is a mistake in the host's code."""
        with pytest.raises(ValueError, match="ignore must be classes"):
            Telemetry(app="tool", ignore=ignore)

    def test_handled_or_not(self, recorded):
        """What leaves a block is not handled; what is captured by hand is. Neither is fatal."""
        with contextlib.suppress(ValueError), recorded.telemetry.capture("start", "end"):
            raise ValueError
        recorded.telemetry.capture_exception(TypeError())
        told = [event["properties"] for event in recorded.events[1:]]
        assert [each["$exception_list"][0]["mechanism"]["handled"] for each in told] == [False, True]
        assert [each["$exception_level"] for each in told] == ["error", "error"]

    def test_whose_code_it_is(self, file):
        """By default it is that of the module that made the `Telemetry`; `in_app` names another one."""
        store(file, f"id: {ID}\ntelemetry: true\n")
        for options, expected in (({}, True), ({"in_app": ("elsewhere",)}, False)):
            recorded = Recorded(Telemetry(app="atopile", api_key="phc_test", host=NOWHERE, **options))
            with contextlib.suppress(ValueError), recorded.telemetry.capture("start", "end"):
                raise_it(ValueError())
            (entry,) = recorded.events[1]["properties"]["$exception_list"]
            frames = entry["stacktrace"]["frames"]
            assert [(frame["function"], frame["in_app"]) for frame in frames] == [
                ("test_whose_code_it_is", expected),
                ("raise_it", expected),
            ]

    def test_an_exit_is_not_captured_by_hand(self, recorded):
        """`except Exception` catches click's exits, too; they are still no exceptions."""
        assert recorded.telemetry.capture_exception(click_exit()) is None
        assert recorded.telemetry.capture_exception(SystemExit(1)) is None
        assert recorded.telemetry.client.stats.captured == 0

    def test_one_exception_is_one_event(self, recorded):
        """An inner block, an outer block and `main` see the same exception object: it is reported once."""
        error = ValueError("once")
        with (
            contextlib.suppress(ValueError),
            recorded.telemetry.capture("outer", "outer end"),
            recorded.telemetry.capture("inner", "inner end"),
        ):
            raise_it(error)
        assert recorded.telemetry.capture_exception(error) is None
        assert recorded.names == ["outer", "inner", "$exception"]

    def test_another_exception_is_another_event(self, recorded):
        """What an outer block raises because of the inner one's exception is an exception of its own."""
        with (
            pytest.raises(RuntimeError),
            recorded.telemetry.capture("outer", "outer end"),
        ):
            try:
                with recorded.telemetry.capture("inner", "inner end"):
                    raise_it(ValueError("first"))
            except ValueError as error:
                raise RuntimeError("second") from error
        kinds = [event["properties"].get("$exception_type") for event in recorded.events]
        assert kinds == [None, None, "ValueError", "RuntimeError"]

    def test_properties_as_they_are_at_the_moment(self, recorded):
        """What the block puts into the dict is on the end event and not on the start event."""
        properties = {"step": "before"}
        with recorded.telemetry.capture("start", "end", properties):
            properties |= {"step": "after", "nets": 12}
        start, end = (event["properties"] for event in recorded.events)
        assert (start["step"], end["step"], end["nets"]) == ("before", "after", 12)
        assert "nets" not in start
        assert properties == {"step": "after", "nets": 12}

    def test_one_object_entered_inside_itself(self, recorded, monkeypatch):
        """The object may be kept and entered again, also inside itself; each entry has a duration of its own."""
        clock = iter([0.0, 10.0, 11.0, 15.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
        block = recorded.telemetry.capture("start", "end")
        with block, block:
            pass
        assert [event["properties"]["duration"] for event in recorded.events] == [0.0, 0.0, 1.0, 15.0]


class TestDecorator:
    def test_plain_function(self, recorded):
        """A decorated function takes and returns what it did, looks the same, and gives two events a call."""

        @recorded.telemetry.capture("start", "end", {"a": 1})
        def build(board: str, *, layers: int = 2) -> str:
            """Build it."""
            return f"{board}/{layers}"

        assert recorded.events == []
        assert build("blinky", layers=4) == "blinky/4"
        assert build("blinky") == "blinky/2"
        assert recorded.names == ["start", "end", "start", "end"]
        assert (build.__name__, build.__doc__) == ("build", "Build it.")
        assert str(inspect.signature(build)) == "(board: 'str', *, layers: 'int' = 2) -> 'str'"

    def test_calls_inside_calls(self, recorded):
        """A function that calls itself is measured call by call."""

        @recorded.telemetry.capture("start", "end")
        def count_down(number):
            return number and count_down(number - 1)

        count_down(2)
        assert recorded.names == ["start"] * 3 + ["end"] * 3

    def test_exception(self, recorded):
        """A decorated function's exception is reported and comes out as it was raised."""
        error = OSError("disk")
        decorated = recorded.telemetry.capture("start", "end")(raise_it)
        with pytest.raises(OSError, match="disk") as caught:
            decorated(error)
        assert caught.value is error
        assert traceback.extract_tb(error.__traceback__)[-1].name == "raise_it"
        assert recorded.names == ["start", "$exception"]

    def test_method(self, recorded):
        """Methods, class methods and static methods are functions too."""
        measured = recorded.telemetry.capture("start", "end")

        class Board:
            @measured
            def plain(self):
                return self

            @classmethod
            @measured
            def of_class(cls):
                return cls

            @staticmethod
            @measured
            def static(value):
                return value

        board = Board()
        assert (board.plain(), Board.of_class(), Board.static(1)) == (board, Board, 1)
        assert len(recorded.events) == 6

    def test_coroutine_function(self, recorded):
        """A coroutine function stays one, and its end is where its awaiting ends."""
        order = []

        @recorded.telemetry.capture("start", "end")
        async def fetch(value):
            order.append(list(recorded.names))
            await asyncio.sleep(0)
            order.append(list(recorded.names))
            return value

        assert inspect.iscoroutinefunction(fetch)
        waiting = fetch(5)
        assert recorded.events == []
        assert asyncio.run(waiting) == 5
        assert order == [["start"], ["start"]]
        assert recorded.names == ["start", "end"]

    def test_coroutine_exception_and_cancellation(self, recorded):
        """What a coroutine raises is reported; its cancellation is not."""

        @recorded.telemetry.capture("start", "end")
        async def fetch(*, fails):
            await asyncio.sleep(0)
            if fails:
                raise ConnectionError
            await asyncio.get_running_loop().create_future()

        async def cancelled():
            task = asyncio.create_task(fetch(fails=False))
            await asyncio.sleep(0)
            task.cancel()
            await task

        with pytest.raises(ConnectionError):
            asyncio.run(fetch(fails=True))
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancelled())
        assert recorded.names == ["start", "$exception", "start", "end"]
        assert recorded.events[3]["properties"]["outcome"] == "cancelled"

    def test_generator_function(self, recorded):
        """A generator takes what is sent and thrown into it, returns what it returned, and ends with its last value."""

        @recorded.telemetry.capture("start", "end")
        def steps():
            got = yield 1
            try:
                yield got
            except KeyError:
                yield "caught"
            return "done"

        assert inspect.isgeneratorfunction(steps)
        generator = steps()
        assert recorded.events == []
        assert (next(generator), generator.send("sent"), generator.throw(KeyError())) == (1, "sent", "caught")
        assert recorded.names == ["start"]
        with pytest.raises(StopIteration) as stopped:
            next(generator)
        assert stopped.value.value == "done"
        assert recorded.names == ["start", "end"]

    def test_generator_that_is_closed_early(self, recorded):
        """A generator that nobody reads to its end gives no end event, and no exception either."""
        closed = []

        @recorded.telemetry.capture("start", "end")
        def steps():
            try:
                yield 1
                yield 2
            finally:
                closed.append(True)

        generator = steps()
        next(generator)
        generator.close()
        assert (recorded.names, closed) == (["start", "end"], [True])
        assert recorded.events[1]["properties"]["outcome"] == "cancelled"

    def test_async_generator_function(self, recorded):
        """An async generator takes what is sent and thrown into it; its end is where its values end."""

        @recorded.telemetry.capture("start", "end")
        async def steps():
            got = yield 1
            try:
                await asyncio.sleep(0)
                yield got
            except KeyError:
                yield "caught"

        async def use():
            generator = steps()
            before = recorded.names
            values = [await anext(generator), await generator.asend("sent"), await generator.athrow(KeyError())]
            values += [value async for value in generator]
            return before, values

        assert inspect.isasyncgenfunction(steps)
        assert asyncio.run(use()) == ([], [1, "sent", "caught"])
        assert recorded.names == ["start", "end"]

    def test_async_generator_that_is_closed_or_fails(self, recorded):
        """Closed early it runs its clean-up and says nothing more; what it raises is reported and comes out."""
        closed = []

        @recorded.telemetry.capture("start", "end")
        async def steps(*, fails):
            try:
                yield 1
                if fails:
                    raise LookupError("inside")
                yield 2
            finally:
                await asyncio.sleep(0)
                closed.append(True)

        async def close_early():
            generator = steps(fails=False)
            await anext(generator)
            await generator.aclose()
            assert closed == [True]

        async def read_all():
            return [value async for value in steps(fails=True)]

        asyncio.run(close_early())
        assert (recorded.names, closed) == (["start", "end"], [True])
        recorded.clear()
        with pytest.raises(LookupError, match="inside") as caught:
            asyncio.run(read_all())
        assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "steps"
        assert recorded.names == ["start", "$exception"]
        assert len(closed) == 2

    def test_coroutine_in_disguise(self, recorded):
        """A `partial` of a coroutine function and a generator-based coroutine are awaited, and measured till then."""
        measured = recorded.telemetry.capture("start", "end")

        async def add(a, b):
            await asyncio.sleep(0)
            return a + b, list(recorded.names)

        @types.coroutine
        def step():
            yield
            return list(recorded.names)

        async def both():
            return await measured(functools.partial(add, 1))(2), await measured(step)()

        assert asyncio.run(both()) == ((3, ["start"]), ["start", "end", "start"])
        assert recorded.names == ["start", "end"] * 2

    def test_object_with_an_asynchronous_call(self, recorded):
        """What it returns is awaited, and what that raises is reported."""

        class Job:
            async def __call__(self, fails):
                await asyncio.sleep(0)
                if fails:
                    raise ConnectionError
                return list(recorded.names)

        measured = recorded.telemetry.capture("start", "end")(Job())
        assert asyncio.run(measured(fails=False)) == ["start"]
        with pytest.raises(ConnectionError):
            asyncio.run(measured(fails=True))
        assert recorded.names == ["start", "end", "start", "$exception"]

    def test_methods_of_a_class(self, recorded):
        """Above `@staticmethod` and `@classmethod` it measures the function, which is called as without it."""
        capture = recorded.telemetry.capture("start", "end")

        class Host:
            @capture
            @staticmethod
            def static(a, b):
                return a, b

            @capture
            @classmethod
            def of_class(cls, a):
                return cls, a

            @capture
            @staticmethod
            async def waiting(a):
                await asyncio.sleep(0)
                return a, list(recorded.names[-1:])

            @staticmethod
            @capture
            def below(a):
                return a

        assert (Host().static(1, 2), Host.static(1, 2)) == ((1, 2), (1, 2))
        assert (Host().of_class(3), Host.of_class(3)) == ((Host, 3), (Host, 3))
        assert asyncio.run(Host().waiting(4)) == (4, ["start"])
        assert Host().below(5) == 5
        assert recorded.names == ["start", "end"] * 6

    def test_typer_command(self, recorded):
        """A decorated command has its options, which typer reads from the signature, and runs measured."""
        import typer
        from typer.testing import CliRunner

        app = typer.Typer()

        @app.command()
        @recorded.telemetry.capture("cli:build_start", "cli:build_end")
        def build(board: str, layers: int = 2, *, frozen: bool = False) -> None:
            print(board, layers, frozen)

        result = CliRunner().invoke(app, ["blinky", "--layers", "4", "--frozen"])
        assert (result.exit_code, result.output) == (0, "blinky 4 True\n")
        assert recorded.names == ["cli:build_start", "cli:build_end"]


class TestEvent:
    def test_a_single_event(self, recorded):
        """It has a uuid, the person, the run, the seconds since the telemetry was made, and the caller's properties."""
        made = recorded.telemetry.capture_event("cli:install", {"package": "widget"})
        event = recorded.only()
        assert uuid.UUID(made).version == 7
        assert (event["uuid"], event["event"], event["distinct_id"]) == (made, "cli:install", ID)
        assert set(event["properties"]) == {"duration", "run_id", "package"}
        assert 0 < event["properties"]["duration"] < 60

    def test_an_event_of_that_name_is_an_event(self, recorded):
        """`$exception` captured as an event goes out as it is, though no exception is being handled."""
        assert recorded.telemetry.capture_event("$exception", {"$exception_message": "by hand"})
        assert recorded.only()["properties"]["$exception_message"] == "by hand"
        assert "$exception_list" not in recorded.only()["properties"]

    def test_the_callers_properties_win(self, recorded):
        """Whatever the caller says stands, `duration` and `run_id` included, and the caller's dict stays as it was."""
        mine = {"duration": "long", "run_id": None, "$lib": "mine"}
        recorded.telemetry.capture_event("event", mine)
        assert recorded.only()["properties"] == mine == {"duration": "long", "run_id": None, "$lib": "mine"}

    @pytest.mark.parametrize(
        ("properties", "arrives"),
        [
            (None, {}),
            ({}, {}),
            (types.MappingProxyType({"a": 1}), {"a": 1}),
            (UserDict(a=1), {"a": 1}),
            (type("Odd", (dict,), {"keys": None})(a=1), {"a": 1}),
            ({1: "one", None: "none"}, {"1": "one", "null": "none"}),
            ([1, 2], {"value": [1, 2]}),
            ([("a", 1)], {"value": [["a", 1]]}),
            ("text", {"value": "text"}),
            (7, {"value": 7}),
        ],
    )
    def test_odd_properties(self, recorded, properties, arrives):
        """Properties that are no dict with texts for keys: the event arrives, with what could be made of them."""
        assert recorded.telemetry.capture_event("odd", properties)
        found = recorded.only()["properties"]
        assert {key: found[key] for key in found if key not in {"duration", "run_id"}} == arrives
        assert {"duration", "run_id"} <= set(found)

    def test_properties_that_cannot_be_read(self, recorded):
        """Properties whose every method raises cost themselves, not the event, and nothing comes out of the call."""

        class Broken(UserDict):
            def __bool__(self):
                raise RuntimeError("no truth")

            def __iter__(self):
                raise RuntimeError("no keys")

            def __len__(self):
                raise RuntimeError("no length")

        with recorded.telemetry.capture("start", "end", Broken()):
            pass
        assert recorded.names == ["start", "end"]

    def test_flush_hands_over(self, file):
        """With `flush=True` the event is in a sender's pipe when the call returns, and the sender then ends."""
        with CaptureServer() as server:
            telemetry = Telemetry(app="atopile", api_key="phc_test", host=server.url, run_properties=())
            telemetry.capture_event("urgent", flush=True)
            assert telemetry.client.stats.handed_over == 1
            (event,) = server.wait_for_events(1)
            assert event["event"] == "urgent"
            assert telemetry.client.flush(20, delivered=True)
            assert telemetry.client.shutdown()


class TestException:
    def test_the_current_one(self, recorded):
        """Without an argument, the exception that is being handled."""
        try:
            raise_it(ValueError("now"))
        except ValueError:
            made = recorded.telemetry.capture_exception()
        event = recorded.only()
        assert event["uuid"] == made
        assert event["properties"]["$exception_message"] == "now"
        assert event["properties"]["$exception_list"][0]["type"] == "ValueError"

    def test_none_at_all(self, recorded):
        """When nothing is being handled there is nothing to say."""
        assert recorded.telemetry.capture_exception() is None
        assert recorded.events == []

    def test_the_callers_properties_win(self, recorded):
        """Also over what is said about the exception."""
        recorded.telemetry.capture_exception(ValueError("secret"), {"$exception_message": "hidden", "duration": 1})
        properties = recorded.only()["properties"]
        assert (properties["$exception_message"], properties["duration"]) == ("hidden", 1)


class TestNamesThatAreFunctions:
    def test_called_on_entering(self, recorded):
        """A name may be a function; both are called on entering, again at each entering."""
        asked = []

        def name(part):
            asked.append(part)
            return f"{part} {len(asked)}"

        block = recorded.telemetry.capture(lambda: name("start"), lambda: name("end"))
        assert asked == []
        with block:
            assert asked == ["start", "end"]
        with block:
            pass
        assert recorded.names == ["start 1", "end 2", "start 3", "end 4"]

    def test_of_a_decorated_function(self, recorded):
        """They are called for each call of a decorated function, not when it is decorated."""
        names = iter(["a", "b", "c", "d"])

        @recorded.telemetry.capture(lambda: next(names), lambda: next(names))
        def work():
            return 1

        assert (work(), work()) == (1, 1)
        assert recorded.names == ["a", "b", "c", "d"]

    def test_one_that_fails(self, recorded, caplog):
        """A function that fails costs its event, which is counted, and neither the other one nor the block."""
        caplog.set_level(logging.DEBUG, "atotelemetry")
        with recorded.telemetry.capture(lambda: 1 // 0, lambda: "end"):
            pass
        assert recorded.names == ["end"]
        assert recorded.telemetry.client.stats.dropped == 1
        assert "an event has no name: ZeroDivisionError" in caplog.text


class TestIdentity:
    @pytest.fixture
    def signed_in(self, file):
        """Make a `Telemetry` whose identity the test sets."""
        store(file, f"id: {ID}\ntelemetry: true\n")
        answer = []

        def ask():
            if isinstance(answer[0], BaseException):
                raise answer[0]
            return answer[0]

        return Recorded(identity=ask), lambda value: answer.__setitem__(slice(None), [value])

    @pytest.mark.parametrize(
        ("answer", "person", "email"),
        [
            ("user_1", "user_1", None),
            (" user_1 ", "user_1", None),
            (("user_1", "a@b.example"), "user_1", "a@b.example"),
            (("user_1", None), "user_1", None),
            (("user_1", " "), "user_1", None),
            ((None, "a@b.example"), ID, "a@b.example"),
            (uuid.UUID(ID.replace("0", "1")), ID.replace("0", "1"), None),
            (None, ID, None),
            ("", ID, None),
            ((), ID, None),
            (("a", "b", "c"), ID, None),
            (ValueError("no session"), ID, None),
            (SystemExit(3), ID, None),
        ],
    )
    def test_answers(self, signed_in, answer, person, email):
        """A distinct id, or one with an e-mail address, or nobody; what fails or is malformed is nobody."""
        recorded, set_answer = signed_in
        set_answer(answer)
        recorded.telemetry.capture_event("a")
        recorded.telemetry.capture_exception(KeyError("R1"))
        for event in recorded.events:
            assert (event["distinct_id"], event["properties"].get("email")) == (person, email)
        assert recorded.events[1]["properties"]["$exception_person"] == person

    def test_during_a_run(self, signed_in):
        """Somebody who signs in during a block is on the later event, and no other event says so."""
        recorded, set_answer = signed_in
        set_answer(None)
        with recorded.telemetry.capture("start", "end"):
            set_answer("user_1")
        assert [(event["event"], event["distinct_id"]) for event in recorded.events] == [
            ("start", ID),
            ("end", "user_1"),
        ]

    def test_asked_on_the_capturing_thread(self, file):
        """The function is called once for each event, on the thread that captures it."""
        asked = []
        recorded = Recorded(identity=lambda: asked.append(threading.current_thread().name))
        recorded.telemetry.capture_event("a")
        thread = threading.Thread(target=lambda: recorded.telemetry.capture_event("b"), name="other")
        thread.start()
        thread.join()
        assert asked == [threading.current_thread().name, "other"]

    def test_an_event_cannot_override_it(self, signed_in):
        """An event's own `email` is nobody's word about the person, signed in or not."""
        recorded, set_answer = signed_in
        for answer in (("user_1", "a@b.example"), "user_1", None):
            set_answer(answer)
            recorded.telemetry.capture_event("a", {"email": "other@b.example", "distinct_id": "other"})
        assert [event["properties"].get("email") for event in recorded.events] == ["a@b.example", None, None]
        assert [event["distinct_id"] for event in recorded.events] == ["user_1", "user_1", ID]

    def test_without_it_the_event_wins(self, recorded):
        """Where no identity is given, an event's `email` stays."""
        recorded.telemetry.capture_event("a", {"email": "other@b.example"})
        assert recorded.only()["properties"]["email"] == "other@b.example"

    def test_a_failure_is_one_line(self, signed_in, caplog):
        """What the function raises is one line in the log."""
        recorded, set_answer = signed_in
        set_answer(ValueError("no session"))
        caplog.set_level(logging.DEBUG, "atotelemetry")
        recorded.telemetry.capture_event("a")
        assert caplog.messages == ["the identity is not known: ValueError('no session')"]

    def test_ctrl_c(self, signed_in):
        """A Ctrl-C that happens to arrive there is the program's."""
        recorded, set_answer = signed_in
        set_answer(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            recorded.telemetry.capture_event("a")

    def test_one_that_captures(self, file):
        """A function that captures an event itself is not asked about that one."""
        store(file, f"id: {ID}\ntelemetry: true\n")

        def ask():
            recorded.telemetry.capture_event("asked")
            return "user_1"

        recorded = Recorded(identity=ask)
        recorded.telemetry.capture_event("a")
        assert [(event["event"], event["distinct_id"]) for event in recorded.events] == [("asked", ID), ("a", "user_1")]

    def test_nobody_is_asked_when_telemetry_is_off(self, file):
        """Who said no is not looked up."""
        store(file, "telemetry: false\n")
        telemetry = Telemetry(app="atopile", api_key="key", host=NOWHERE, identity=lambda: pytest.fail("asked"))
        assert telemetry.capture_event("a") is None

    def test_no_function(self, file):
        """What is no function is a mistake of the program's, not silence."""
        with pytest.raises(ValueError, match="identity must be a function, not 'me'"):
            Telemetry(app="atopile", api_key="key", host=NOWHERE, identity="me")


class TestRunAndPerson:
    def test_one_run_id_for_the_process(self, recorded):
        """Every event of a process has one `run_id`, whichever instance sent it, and `PropertyLoaders` knows it."""
        other = Recorded(app="other")
        recorded.telemetry.capture_event("a")
        recorded.telemetry.capture_event("b")
        other.telemetry.capture_event("c")
        found = {event["properties"]["run_id"] for event in [*recorded.events, *other.events]}
        assert found == {atotelemetry.PropertyLoaders.run_id()}
        assert uuid.UUID(found.pop()).version == 4

    def test_the_loaders_may_be_first(self, monkeypatch, recorded):
        """The same when `PropertyLoaders.run_id` was asked before the first event."""
        monkeypatch.setattr(run, "_run", {})
        asked = atotelemetry.PropertyLoaders.run_id()
        recorded.telemetry.capture_event("a")
        assert recorded.only()["properties"]["run_id"] == asked

    def test_first_run(self, file, tmp_path):
        """Making a `Telemetry` writes nothing; the first event creates the file and carries the id in it."""
        recorded = Recorded()
        assert files_below(tmp_path) == []
        recorded.telemetry.capture_event("first")
        content = file.read_text()
        assert content == f"id: {recorded.only()['distinct_id']}\ntelemetry: true\n"
        recorded.telemetry.capture_event("second")
        assert recorded.events[1]["distinct_id"] == recorded.events[0]["distinct_id"]
        assert file.read_text() == content

    def test_a_home_that_cannot_be_written(self, file, tmp_path):
        """Where no file can be kept, the run's events still share one random id."""
        (tmp_path / "home" / ".config").write_text("a file in the place of the directory")
        recorded = Recorded()
        recorded.telemetry.capture_event("one")
        recorded.telemetry.capture_event("two")
        first, second = (event["distinct_id"] for event in recorded.events)
        assert first == second
        assert uuid.UUID(first)


class TestSettings:
    def test_environment_over_arguments(self, monkeypatch):
        """The application's two variables win over what it has built in."""
        monkeypatch.setenv("ATO_TELEMETRY_API_KEY", "phc_mine")
        monkeypatch.setenv("ATO_SERVICES_TELEMETRY_URL", "http://127.0.0.1:1")
        client = Telemetry(app="atopile", api_key="phc_built_in", host="https://built-in.example").client
        assert (client.api_key, client.host, client.disabled) == ("phc_mine", "http://127.0.0.1:1", False)

    def test_empty_variables_are_none(self, monkeypatch):
        """An empty variable changes nothing."""
        for name in ("ATO_TELEMETRY_API_KEY", "ATO_SERVICES_TELEMETRY_URL", "ATO_TELEMETRY", "DO_NOT_TRACK"):
            monkeypatch.setenv(name, "")
        client = Telemetry(app="atopile", api_key="phc_built_in", host="https://built-in.example").client
        assert (client.api_key, client.host, client.disabled) == ("phc_built_in", "https://built-in.example", False)

    def test_atopiles_server_but_nobodys_key(self):
        """The default application has a server; without a key nothing is ever sent by accident."""
        client = Telemetry(app="atopile").client
        assert (client.host, client.api_key, client.disabled) == ("https://telemetry.atopileapi.com", "", True)
        assert Telemetry(app="atopile").capture_event("nothing") is None

    def test_another_application(self, monkeypatch, tmp_path):
        """Another CLI has its own variables, its own file, and no server but the one it names."""
        monkeypatch.setenv("ATO_TELEMETRY", "off")
        monkeypatch.setenv("ATO_TELEMETRY_API_KEY", "phc_atopile")
        assert Telemetry(app="my-tool", api_key="phc_tool").client.disabled
        monkeypatch.setenv("MY_TOOL_TELEMETRY_API_KEY", "phc_mine")
        monkeypatch.setenv("MY_TOOL_SERVICES_TELEMETRY_URL", NOWHERE)
        recorded = Recorded(app="my-tool", api_key="", host="", notice=None)
        client = recorded.telemetry.client
        assert (client.api_key, client.host, client.app) == ("phc_mine", NOWHERE, "my-tool")
        recorded.telemetry.capture_event("hello")
        assert files_below(tmp_path) == ["home/.config/my-tool/telemetry.yaml"]
        monkeypatch.setenv("MY_TOOL_TELEMETRY", "no")
        assert Telemetry(app="my-tool").client.disabled

    def test_a_wrong_argument_is_the_hosts_mistake(self):
        """A misspelt setting is an error at once, while it is developed, and not silence for ever."""
        with pytest.raises(ValueError, match="endpoint"):
            Telemetry(app="atopile", api_key="phc_test", host=NOWHERE, endpoint="post")

    def test_what_the_sender_adds_can_be_cut_and_overruled(self):
        """`run_properties` names what the sender works out, and the caller's properties win over it, too."""
        with CaptureServer() as server:
            telemetry = Telemetry(
                app="atopile", api_key="phc_test", host=server.url, run_properties=("ci_provider", "email")
            )
            telemetry.capture_event("cut", {"email": "nobody", "$lib": "mine", "$os": None})
            assert telemetry.client.flush(20, delivered=True)
            properties = server.events[0]["properties"]
            assert telemetry.client.shutdown()
        assert (properties["email"], properties["$lib"], properties["$os"]) == ("nobody", "mine", None)
        assert {name for name in properties if not name.startswith("$")} == {
            "ci_provider", "email", "duration", "run_id",
        }  # fmt: skip


class TestConsent:
    @pytest.mark.parametrize(
        ("content", "variables", "enabled"),
        [
            (None, {}, True),
            (f"id: {ID}\ntelemetry: true\n", {}, True),
            (f"id: {ID}\ntelemetry: false\n", {}, False),
            (f"{{id: {ID}, telemetry: 'Off'}}  # never\n", {}, False),
            ("telemetry: [", {}, False),
            (None, {"DO_NOT_TRACK": "1"}, False),
            (None, {"DO_NOT_TRACK": "0"}, True),
            (None, {"ATO_TELEMETRY": "off"}, False),
            (None, {"ATO_TELEMETRY": "perhaps"}, False),
            (f"id: {ID}\ntelemetry: false\n", {"ATO_TELEMETRY": "on"}, True),
            (f"id: {ID}\ntelemetry: true\n", {"ATO_TELEMETRY": "on", "DO_NOT_TRACK": "true"}, False),
            (None, {"ATO_TELEMETRY": "log", "DO_NOT_TRACK": "true"}, False),
        ],
    )
    def test_who_is_asked(self, file, monkeypatch, tmp_path, content, variables, enabled):
        """Variables and file decide as `atotelemetry status` says; a no means a disabled client and untouched files."""
        if content:
            store(file, content)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        before = files_below(tmp_path)
        telemetry = Telemetry(app="atopile", api_key="phc_test", host=NOWHERE)
        assert telemetry.client.disabled is not enabled
        if not enabled:
            with telemetry.capture("start", "end"):
                assert telemetry.capture_event("event", flush=True) is None
                assert telemetry.capture_exception(ValueError()) is None
            assert telemetry.client.stats.captured == 0
        assert files_below(tmp_path) == before
        assert content is None or file.read_text() == content

    def test_the_reason_is_logged(self, file, caplog):
        """Who looks at the log at DEBUG reads which file and line said no."""
        caplog.set_level(logging.DEBUG, "atotelemetry")
        store(file, f"id: {ID}\ntelemetry: off\n")
        Telemetry(app="atopile", api_key="phc_test", host=NOWHERE)
        assert f"telemetry is off: telemetry: off in {file}, line 2" in caplog.messages

    def test_disabled_later(self, recorded):
        """`client.disabled = True` holds from that moment on."""
        with recorded.telemetry.capture("start", "end"):
            recorded.telemetry.client.disabled = True
        assert recorded.names == ["start"]


class TestOwnFailures:
    def test_they_are_counted(self, recorded):
        """An event that is lost in this layer is a dropped one, as if it were lost below."""

        class Key(str):
            __slots__ = ()

            def __hash__(self):
                return hash("duration")

            def __eq__(self, other):
                raise RuntimeError("never equal")

        properties = {Key("x"): 1}
        telemetry = recorded.telemetry
        assert telemetry.capture_event("event", properties) is None
        assert telemetry.capture_exception(ValueError(), properties) is None
        with telemetry.capture("start", "end", properties):
            pass
        stats = telemetry.client.stats
        assert (stats.captured, stats.dropped, stats.dropped_by_reason) == (4, 4, {"error": 4})


class TestLogMode:
    @pytest.fixture(autouse=True)
    def log_mode(self, monkeypatch):
        monkeypatch.setenv("ATO_TELEMETRY", "log")

    def test_an_event_cannot_steer_the_terminal(self, monkeypatch, capsys):
        """Control and bidirectional characters and DEL are escapes, and the line is the same JSON."""
        monkeypatch.setenv("ATO_TELEMETRY", "log")
        Telemetry(app="atopile").capture_event("a\x7f\x9b2J\u202eb", {"\u2066": "\x1b[2J"})
        line = capsys.readouterr().err
        assert line.rstrip("\n").isprintable()
        event = json.loads(line)
        assert (event["event"], event["properties"]["\u2066"]) == ("a\x7f\x9b2J\u202eb", "\x1b[2J")

    def test_each_event_is_a_line_of_json(self, capsys, tmp_path):
        """Events are shown on stderr, without a key, and no file is made for the id."""
        telemetry = Telemetry(app="atopile")
        with telemetry.capture("start", "end", {"name": "zoë"}):
            pass
        output = capsys.readouterr()
        events = [json.loads(line) for line in output.err.splitlines()]
        assert output.out == ""
        assert [(event["event"], event["properties"]["name"]) for event in events] == [("start", "zoë"), ("end", "zoë")]
        assert events[0]["distinct_id"] == events[1]["distinct_id"]
        assert telemetry.client.stats.handed_over == 2
        assert telemetry.client.flush(delivered=True)
        assert files_below(tmp_path) == []

    @pytest.mark.parametrize("before_send", [None, lambda event: event], ids=["", "before_send"])
    def test_what_every_event_has(self, capsys, before_send):
        """What the sender would be told once for all events is on each; an event's own wins."""
        telemetry = Telemetry(
            app="atopile", properties={"plan": "pro", "tier": 1, "path": uuid.UUID(ID)}, before_send=before_send
        )
        telemetry.capture_event("seen", {"tier": 2})
        properties = json.loads(capsys.readouterr().err)["properties"]
        assert (properties["plan"], properties["tier"], properties["path"]) == ("pro", 2, ID)

    def test_the_id_of_the_file(self, file, capsys):
        """Somebody who has an id sees it."""
        store(file, f"id: {ID}\ntelemetry: false\n")
        Telemetry(app="atopile").capture_event("seen")
        assert json.loads(capsys.readouterr().err)["distinct_id"] == ID

    @pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "closed"])
    def test_no_stderr(self, monkeypatch, stream):
        """A program without a stderr loses the line and nothing else."""
        if stream is not None:
            stream.close()
        monkeypatch.setattr(sys, "stderr", stream)
        telemetry = Telemetry(app="atopile")
        assert telemetry.capture_event("unseen") is None
        assert telemetry.client.capture("unseen", distinct_id="me") is None
        assert telemetry.client.stats.dropped == 2

    def test_a_dropped_event(self, capsys):
        """An event that `before_send` drops is not shown."""
        telemetry = Telemetry(app="atopile", before_send=lambda event: None if event["event"] == "secret" else event)
        assert telemetry.capture_event("secret") is None
        assert telemetry.capture_event("") is None
        assert telemetry.capture_event("open")
        assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["open"]


class TestDefaultInstance:
    def test_made_once_and_shared(self, monkeypatch):
        """The module's functions and its client are one instance, made at the first use, also by threads at once."""
        made = []
        together = threading.Barrier(4)

        class Slow(Telemetry):
            def __init__(self, *, app):
                together.wait(10)
                made.append(self)
                super().__init__(app=app, api_key="phc_test", host=NOWHERE)

        monkeypatch.setattr(module, "Telemetry", Slow)
        clients = []
        threads = [threading.Thread(target=lambda: clients.append(module.client)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4
        assert {id(client) for client in clients} == {id(module._get_telemetry_client())}
        assert len(made) == 4

    def test_the_functions(self, monkeypatch):
        """`capture`, `capture_event` and `capture_exception` of the module are the default instance's."""
        monkeypatch.setenv("ATO_TELEMETRY_API_KEY", "phc_test")
        recorded = Recorded(module._get_telemetry())
        with module.capture("start", "end", {"a": 1}):
            assert module.capture_event("event", {"a": 1}, flush=True)
        assert module.capture_exception(ValueError("x"), {"a": 1})
        module.capture("f", "g")(len)("abc")
        assert recorded.names == ["start", "event", "end", "$exception", "f", "g"]
        assert [event["properties"].get("a") for event in recorded.events] == [1, 1, 1, 1, None, None]

    def test_any_failure_gives_a_disabled_client(self, monkeypatch, caplog):
        """If the instance cannot be made, the client is a disabled one and every function does nothing, quietly."""
        caplog.set_level(logging.DEBUG, "atotelemetry")

        def broken(app, **_rules):
            raise MemoryError(app)

        monkeypatch.setattr(telemetry_module, "read_consent", broken)
        client = module._get_telemetry_client()
        assert client.disabled
        assert "telemetry is off: MemoryError('atopile')" in caplog.messages
        assert module.client is client
        with module.capture("start", "end"):
            assert module.capture_event("event", flush=True) is None
        with pytest.raises(ValueError, match="mine"), module.capture("start", "end"):
            raise_it(ValueError("mine"))
        assert module.capture_exception(ValueError()) is None
        assert client.capture("event") is None
        module._flush_telemetry_on_exit()

    def test_flush_on_exit(self, monkeypatch):
        """`_flush_telemetry_on_exit` hands over what was captured, then disables the client."""
        module._flush_telemetry_on_exit()
        assert module._defaults == {}
        with CaptureServer() as server:
            monkeypatch.setenv("ATO_TELEMETRY_API_KEY", "phc_test")
            monkeypatch.setenv("ATO_SERVICES_TELEMETRY_URL", server.url)
            module.capture_event("last words")
            module._flush_telemetry_on_exit()
            assert module.client.disabled
            assert module.client.stats.handed_over == 1
            assert module.capture_event("too late") is None
            server.wait_for_events(1)
            assert module.client.flush(20, delivered=True)
            assert module.client.shutdown()
            assert [event["event"] for event in server.events] == ["last words"]

    def test_no_other_name(self):
        """A name that is not there is an AttributeError, as in any module."""
        with pytest.raises(AttributeError, match="clients"):
            _ = module.clients


# What atopile's `telemetry.py` becomes, and a `conftest.py` beside it.
STAR = "from atotelemetry import *\n"
SILENT = "import telemetry\ntelemetry.client.disabled = True\n"
CALLER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
{first}
import telemetry
from telemetry import capture

@capture("cli:build_start", "cli:build_end")
def build():
    telemetry.capture_event("cli:step", {{"n": 1}})

build()
try:
    raise ValueError("x")
except ValueError as error:
    telemetry.capture_exception(error)
print(telemetry.client.disabled, len(telemetry.TelemetryConfig().to_dict()["id"]), flush=True)
"""


@needs_proc
class TestRealProcesses:
    def module(self, hosts, **files):
        """Write modules beside the home directory; return their folder."""
        folder = hosts.directory / "modules"
        folder.mkdir()
        for name, source in files.items():
            (folder / f"{name}.py").write_text(source)
        return str(folder)

    def keys(self, hosts):
        return {"ATO_SERVICES_TELEMETRY_URL": hosts.server.url, "ATO_TELEMETRY_API_KEY": "phc_test"}

    def test_a_star_import_replaces_atopiles_module(self, hosts):
        """A module named `telemetry` that only star-imports the package serves callers written for the old one."""
        folder = self.module(hosts, telemetry=STAR)
        done = hosts.run(CALLER.format(first=""), folder, preamble=False, environment=self.keys(hosts))
        assert (done.returncode, done.stdout, done.stderr) == (0, "False 36\n", "")
        hosts.assert_arrived_once("cli:build_start", "cli:step", "cli:build_end", "$exception")

    def test_a_conftest_switches_it_off(self, hosts):
        """`telemetry.client.disabled = True` before the first event: no event, and no file."""
        folder = self.module(hosts, telemetry=STAR, conftest=SILENT)
        done = hosts.run(CALLER.format(first="import conftest"), folder, preamble=False, environment=self.keys(hosts))
        assert (done.returncode, done.stdout, done.stderr) == (0, "True 36\n", "")
        assert hosts.server.connection_count == 0
        assert files_below(hosts.home) == []

    @pytest.mark.parametrize(
        "said_no",
        [{"DO_NOT_TRACK": "1"}, {"ATO_TELEMETRY": "off"}, {"ATO_TELEMETRY_API_KEY": ""}, {"ATO_TELEMETRY": "log"}],
        ids=["DO_NOT_TRACK", "off", "no key", "log"],
    )
    def test_nothing_for_who_opted_out(self, hosts, said_no):
        """Opted out, without a key, or only logging: no thread, no child, no file, no connection, no descriptor."""
        host = hosts.start(
            """
before = sorted(os.listdir("/proc/self/fd"))
from atotelemetry import *
with capture("start", "end"):
    capture_event("event", flush=True)
capture_exception(ValueError("x"))
client.flush()
say(len(os.listdir("/proc/self/task")), sorted(os.listdir("/proc/self/fd")) == before, "msgspec" in sys.modules)
hear()
""",
            environment={**self.keys(hosts), **said_no},
        )
        shown = said_no.get("ATO_TELEMETRY") == "log"
        assert host.hear() == f"1 True {shown}"
        assert children(host.pid) == {}
        done = host.finish()
        assert done.returncode == 0
        lines = [json.loads(line)["event"] for line in done.stderr.splitlines()]
        assert lines == (["start", "event", "end", "$exception"] if shown else [])
        assert files_below(hosts.home) == []
        assert hosts.server.connection_count == 0

    def test_a_fork_belongs_to_the_same_run(self, hosts):
        """Parent and forked child send their own events, with one `run_id` and one person."""
        done = hosts.run(
            """
from atotelemetry import *
capture_event("parent")
pid = os.fork()
if not pid:
    capture_event("child", flush=True)
    os._exit(0)
os.waitpid(pid, 0)
""",
            options=["-W", "always"],
            environment=self.keys(hosts),
        )
        assert (done.returncode, done.stderr) == (0, "")
        hosts.assert_arrived_once("parent", "child")
        assert len({event["properties"]["run_id"] for event in hosts.server.events}) == 1
        assert len({event["distinct_id"] for event in hosts.server.events}) == 1

    def test_every_run_is_a_run_of_its_own(self, hosts):
        """Two runs have two `run_id`s and, from the file, one person."""
        for _ in range(2):
            done = hosts.run("atotelemetry.capture_event('ran')", environment=self.keys(hosts))
            assert (done.returncode, done.stderr) == (0, "")
        hosts.server.wait_for_events(2)
        assert len({event["properties"]["run_id"] for event in hosts.server.events}) == 2
        assert len({event["distinct_id"] for event in hosts.server.events}) == 1

    def test_what_it_costs_to_import(self, hosts):
        """The star import loads no HTTP stack, no encoder and no `subprocess`; a whole run still no HTTP stack."""
        done = hosts.run(
            """
import sys
bare = set(sys.modules)
import atotelemetry.host.telemetry
print(*sorted(name for name in set(sys.modules) - bare if not name.startswith("atotelemetry")))
from atotelemetry import *
print(*sorted({"asyncio", "httpx", "logging", "msgspec", "ssl", "subprocess", "yaml"} & set(sys.modules) - bare))
with capture("start", "end"):
    pass
print(*sorted({"asyncio", "httpx", "logging", "ssl", "subprocess", "yaml"} & set(sys.modules) - bare))
""",
            preamble=False,
            environment=self.keys(hosts),
        )
        assert (done.returncode, done.stderr) == (0, "")
        first, second, third = done.stdout.split("\n")[:3]
        assert set(first.split()) <= {"__future__", "_queue", "_weakref", "atexit", "errno", "itertools", "time"}
        assert (second, third) == ("", "")
        hosts.assert_arrived_once("start", "end")
