"""`Telemetry.event` as a block of `with`: one event, with its duration, its outcome and its exception."""

from __future__ import annotations

import asyncio
import collections
import collections.abc
import contextlib
import time
import traceback
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from atotelemetry.host.telemetry import Telemetry
from support_home import ID, store
from support_telemetry import NOWHERE, Recorded, raise_it

pytestmark = pytest.mark.usefixtures("file")


def click_exit():
    """Return an object of the kind that click raises to end a program."""
    return type("Exit", (RuntimeError,), {"__module__": "click.exceptions", "exit_code": 0})()


REMOTE_CALLS: list[object] = []


class Remote(collections.abc.Mapping):
    """Fetches each of its values from somewhere."""

    def __init__(self, values):
        self.values_by_name = values

    def __getitem__(self, key):
        REMOTE_CALLS.append(key)
        return self.values_by_name[key]

    def __iter__(self):
        return iter(self.values_by_name)

    def __len__(self):
        return len(self.values_by_name)


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

    def test_a_block_keeps_nothing_of_the_function_that_entered_it(self, recorded):
        """What a helper opened is closed when the helper has returned."""

        class Opened:
            pass

        opened = []

        def helper():
            here = Opened()
            opened.append(weakref.ref(here))
            stack = contextlib.ExitStack()
            stack.enter_context(recorded.telemetry.capture("start", "end"))
            return stack

        with helper():
            assert opened[0]() is None
        assert [event["event"] for event in recorded.events] == ["start", "end"]

    def test_a_function_from_a_file_with_an_odd_name(self, recorded):
        """A template engine's name may be a str of its own class."""

        class Name(str):
            __slots__ = ()

            def endswith(self, *_):
                raise ValueError

        def render():
            with recorded.telemetry.capture("start", "end"):
                return 1

        render.__code__ = render.__code__.replace(co_filename=Name("<template>"))
        assert render() == 1
        assert [event["event"] for event in recorded.events] == ["start", "end"]

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
        recorded = Recorded(ignore=(LookupError,))
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

        def fail():
            raise ValueError

        for options, expected in (({}, True), ({"in_app": ("elsewhere",)}, False)):
            recorded = Recorded(Telemetry(app="atopile", api_key="phc_test", host=NOWHERE, **options))
            with contextlib.suppress(ValueError), recorded.telemetry.capture("start", "end"):
                fail()
            (entry,) = recorded.events[1]["properties"]["$exception_list"]
            frames = entry["stacktrace"]["frames"]
            assert [(frame["function"], frame["in_app"]) for frame in frames] == [
                ("test_whose_code_it_is", expected),
                ("fail", expected),
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

    @pytest.mark.parametrize("kind", [dict, types.MappingProxyType, collections.ChainMap, Remote])
    @pytest.mark.parametrize("size", [3, 3000])
    def test_values_of_the_block_beside_properties_of_any_kind_and_size(self, recorded, kind, size):
        """They win, also None, and the program's own mapping is bounded for each of the two events alike."""
        REMOTE_CALLS.clear()
        with recorded.telemetry.capture("start", "end", kind({f"name {i}": i for i in range(size)})) as block:
            before = len(REMOTE_CALLS)
            block |= {"name 0": None, "found": 1}
        start, end = (event["properties"] for event in recorded.events)
        assert (start["name 0"], end["name 0"], end["found"]) == (0, None, 1)
        assert (start["name 2"], end["name 2"]) == (2, 2)
        assert len(REMOTE_CALLS) == 2 * before <= 2 * 64

    def test_endless_properties(self, recorded):
        """A mapping whose keys never end costs no more with a value in the block than without."""

        class Endless(Remote):
            def keys(self):
                count = 0
                while (count := count + 1) < 100_000:  # so that a failure ends, too
                    yield f"name {count}"
                raise AssertionError("read on and on")

            def __getitem__(self, key):
                return key

            __iter__ = keys

        with recorded.telemetry.capture("start", "end", Endless({})) as block:
            block["found"] = 1
        _, end = (event["properties"] for event in recorded.events)
        assert end["found"] == 1
        assert end["name 2"] == "name 2"

    @pytest.mark.parametrize("way", ["threads", "tasks", "generators", "exit stacks"])
    def test_one_object_entered_twice_at_once(self, recorded, way):
        """Of two threads, tasks or generators in one object, each leaves the block that it entered."""
        step = recorded.telemetry.capture("start", "end")

        def plainly(name):
            with step as block:
                block["name"] = name
                yield
                block["late"] = name

        def by_a_stack(name):
            with contextlib.ExitStack() as stack:
                block = stack.enter_context(step)
                block["name"] = name
                yield
                block["late"] = name

        async def task(name, mine, other):
            steps = plainly(name)
            next(steps)
            mine.set()
            await other.wait()
            next(steps, None)

        async def tasks():
            both, first = asyncio.Event(), asyncio.Event()
            await asyncio.gather(task("first", first, both), task("second", both, first))

        if way == "tasks":
            asyncio.run(tasks())
        elif way == "threads":
            with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
                steps = [(one, plainly("first")), (other, plainly("second"))] * 2
                for thread, generator in steps:
                    thread.submit(next, generator, None).result()
        else:
            steps = [(plainly if way == "generators" else by_a_stack)(name) for name in ("first", "second")]
            for generator in steps * 2:
                next(generator, None)
        told = [event["properties"] for event in recorded.events if event["event"] == "end"]
        assert sorted((each["name"], each["late"]) for each in told) == [("first", "first"), ("second", "second")]

    def test_entered_in_one_function_and_left_in_another(self, recorded):
        """As by a `start` and a `stop` of the program's: the last one ends, and one `stop` too many is none."""
        step = recorded.telemetry.capture("start", "end")

        def start():
            return step.__enter__()

        def stop():
            step.__exit__(None, None, None)

        for name in "abc":
            start()["name"] = name
        for _ in range(4):
            stop()
        assert recorded.names == ["start"] * 3 + ["end"] * 3
        assert [event["properties"]["name"] for event in recorded.events[3:]] == ["c", "b", "a"]

    def test_one_object_entered_inside_itself(self, recorded, monkeypatch):
        """The object may be kept and entered again, also inside itself; each entry has a duration of its own."""
        clock = iter([0.0, 10.0, 11.0, 15.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
        block = recorded.telemetry.capture("start", "end")
        with block, block:
            pass
        assert [event["properties"]["duration"] for event in recorded.events] == [0.0, 0.0, 1.0, 15.0]
