"""`Telemetry.event` as a decorator: of functions, coroutines and generators, which stay what they were."""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
import types

import pytest

from support_telemetry import raise_it

pytestmark = pytest.mark.usefixtures("file")


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
