"""`Telemetry.run`: one pair of events for a run, with its command line and how it ended."""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from typing import Annotated

import click
import click.globals
import pytest
import typer
import typer.main

from atotelemetry.host.telemetry import Telemetry
from atotelemetry.testing import captured
from support_home import fresh_home

TYPER_GLOBALS = sys.modules.get("typer._click.globals", click.globals)


@pytest.fixture
def telemetry(monkeypatch, tmp_path):
    fresh_home(monkeypatch, tmp_path)
    return Telemetry(app="mytool", notice=None)


@pytest.fixture
def events(telemetry):
    """Give the run's events. Whatever was followed is as before after the test."""
    parse = argparse.ArgumentParser.parse_known_args
    with captured(telemetry) as events:
        yield events
    assert argparse.ArgumentParser.parse_known_args is parse
    for module in (click.globals, TYPER_GLOBALS):
        stack = module._local.__dict__.get("stack", [])
        assert (type(stack), stack) == (list, [])


def said(event, *names):
    return {name: event["properties"][name] for name in names if name in event["properties"]}


def ended(events):
    """Return how the only run ended."""
    start, end = events
    assert (start["event"], end["event"]) == ("cli:start", "cli:end")
    assert start["properties"]["run_id"] == end["properties"]["run_id"]
    assert start["properties"]["duration"] == 0 <= end["properties"]["duration"]
    return said(end, "command", "options", "exit_code", "outcome")


def run_as(monkeypatch, function, *arguments):
    monkeypatch.setattr(sys, "argv", ["mytool", *arguments])
    try:
        return function()
    except SystemExit as error:
        return error.code


# ---- the pair


def test_a_run_is_a_pair_of_events(telemetry, events):
    """The end has how it ended, and what was put on it; both have the run's properties."""
    with telemetry.run(properties={"edition": "free"}) as run:
        run["files"] = 12
    assert ended(events) == {"exit_code": 0, "outcome": "ok"}
    assert [said(event, "edition", "files") for event in events] == [
        {"edition": "free"},
        {"edition": "free", "files": 12},
    ]


def test_names_can_be_given(telemetry, events):
    """As texts or functions, in both forms."""
    with telemetry.run(start="begin", end=lambda: "finish"):
        pass
    telemetry.run(start="a", end="b")(int)()
    assert [event["event"] for event in events] == ["begin", "finish", "a", "b"]


@pytest.mark.parametrize(
    ("error", "code", "outcome"),
    [
        (SystemExit(3), 3, "error"),
        (SystemExit(), 0, "ok"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Exit(4), 4, "error"),
        (click.UsageError("x"), 2, "usage"),
    ],
)
def test_an_exit_is_an_end(telemetry, events, error, code, outcome):
    """And no exception; it goes on unchanged."""
    with pytest.raises(type(error)) as caught, telemetry.run():
        raise error
    assert caught.value is error
    assert ended(events) == {"exit_code": code, "outcome": outcome}


def test_a_failure_is_reported_and_ends_the_run(telemetry, events):
    """`$exception` comes between the pair, with what was put on the end; it was not handled."""
    with pytest.raises(KeyError), telemetry.run() as run:
        run["files"] = 12
        raise KeyError("R1")
    start, failure, end = events
    assert failure["event"] == "$exception"
    assert failure["properties"]["$exception_list"][0]["mechanism"]["handled"] is False
    assert said(failure, "files") == {"files": 12}
    assert ended([start, end]) == {"exit_code": 1, "outcome": "error"}


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3), (True, 0), ("text", 0)], ids=repr)
def test_what_main_returns_is_its_exit_code(telemetry, events, returned, code):
    """A program ends by `sys.exit(main())`. The caller gets what main returned."""

    @telemetry.run
    def main():
        return returned

    assert main() is returned
    assert ended(events) == {"exit_code": code, "outcome": "error" if code else "ok"}


def test_a_coroutine(telemetry, events):
    """The run lasts as long as the coroutine."""

    @telemetry.run
    async def main():
        await asyncio.sleep(0)
        telemetry.capture_event("inside")
        return 5

    assert asyncio.run(main()) == 5
    start, inside, end = events
    assert inside["event"] == "inside"
    assert ended([start, end]) == {"exit_code": 5, "outcome": "error"}


def test_a_program_says_its_own_exit_code(telemetry, events):
    """What was put on the end wins, and the outcome follows it."""
    with telemetry.run() as run:
        run["exit_code"] = 7
    assert ended(events) == {"exit_code": 7, "outcome": "error"}


def test_where_telemetry_is_off_nothing_is_followed(telemetry):
    """No framework is touched, and the dict is there all the same."""
    parse = argparse.ArgumentParser.parse_known_args
    assert telemetry.disabled
    with telemetry.run() as run:
        run["files"] = 12
        assert argparse.ArgumentParser.parse_known_args is parse
        assert type(click.globals._local.__dict__.get("stack", [])) is list


# ---- click and typer


def click_program():
    @click.group(invoke_without_command=True)
    @click.option("--verbose", "-v", is_flag=True)
    @click.option("--home", envvar="MYTOOL_HOME", default="x")
    def cli(**_):
        pass

    @cli.group()
    def build():
        pass

    @build.command()
    @click.option("-o", "--output")
    @click.option("--jobs", default=1)
    @click.argument("targets", nargs=-1)
    def pcb(**_):
        click.get_current_context().invoke(other)

    @cli.command()
    def other():
        pass

    return cli


def typer_program():
    app = typer.Typer()
    build = typer.Typer()
    app.add_typer(build, name="build")

    @app.callback()
    def main(
        verbose: bool = typer.Option(False, "--verbose", "-v"), home: str = typer.Option("x", envvar="MYTOOL_HOME")
    ):
        pass

    @build.command()
    def pcb(
        targets: Annotated[list[str] | None, typer.Argument()] = None,
        output: str = typer.Option("", "--output", "-o"),
        jobs: int = 1,
    ):
        pass

    @app.command()
    def other():
        pass

    return app


@pytest.mark.parametrize("program", [click_program, typer_program])
@pytest.mark.parametrize(
    ("arguments", "command", "options", "code", "outcome"),
    [
        (["build", "pcb", "secret"], "build pcb", [], 0, "ok"),
        (["-v", "build", "pcb", "-osecret", "--", "-x"], "build pcb", ["--verbose", "--output"], 0, "ok"),
        (["build", "pcb", "--output=secret"], "build pcb", ["--output"], 0, "ok"),
        (["build", "pcb", "--secret"], "build pcb", [], 2, "usage"),
        (["build", "secret"], "build", [], 2, "usage"),
        (["build", "pcb", "--jobs", "secret"], "build pcb", ["--jobs"], 2, "usage"),
        (["build", "pcb", "--help"], "build pcb", ["--help"], 0, "ok"),
        (["other"], "other", [], 0, "ok"),
    ],
    ids=repr,
)
def test_commands_of_click_and_typer(
    telemetry, events, monkeypatch, program, arguments, command, options, code, outcome
):
    """The path and the names that the framework understood; an option from the environment was not used."""
    monkeypatch.setenv("MYTOOL_HOME", "secret")
    app = program()

    @telemetry.run
    def main():
        app()

    assert run_as(monkeypatch, main, *arguments) == code
    assert ended(events) == {"command": command, "options": options, "exit_code": code, "outcome": outcome}
    assert "secret" not in str(events)


@pytest.mark.parametrize("framework", ["click", "typer"])
def test_a_run_inside_a_command(telemetry, events, monkeypatch, framework):
    """Around the body of a command both events know it, and what it returns is no exit code."""
    if framework == "click":
        app = click.Group()
        app.command("build")(click.option("--jobs", default=1)(telemetry.run(lambda jobs: jobs)))
        app.command("other")(lambda: None)
    else:
        app = typer.Typer()

        @app.command("build")
        @telemetry.run
        def build(jobs: int = 1):
            return jobs

        @app.command("other")
        def other():
            pass

    assert run_as(monkeypatch, app, "build", "--jobs", "5") == 0
    assert ended(events) == {"command": "build", "options": ["--jobs"], "exit_code": 0, "outcome": "ok"}
    assert said(events[0], "command", "options") == {"command": "build", "options": ["--jobs"]}


def test_a_run_that_a_context_of_click_ends(telemetry, events, monkeypatch):
    """`with_resource` in the group lasts until the subcommand is done, and knows it."""

    @click.group()
    @click.pass_context
    def cli(context):
        context.with_resource(telemetry.run())["files"] = 12

    @cli.command()
    @click.option("--jobs", default=1)
    def build(jobs):
        pass

    assert run_as(monkeypatch, cli, "build", "--jobs=2") == 0
    assert ended(events).items() >= {"command": "build", "options": ["--jobs"]}.items()
    assert said(events[1], "files") == {"files": 12}


def test_a_program_without_subcommands(telemetry, events, monkeypatch):
    """Its command path is empty."""
    command = click.Command("mytool", params=[click.Option(["--fast"], is_flag=True)])
    with pytest.raises(SystemExit), telemetry.run():
        command.main(["--fast"])
    assert ended(events).items() >= {"command": "", "options": ["--fast"]}.items()


# ---- argparse


def argparse_program():
    parser = argparse.ArgumentParser()
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("-q", action="store_true")
    parser.add_argument("--home", nargs=2)
    parser.add_argument("--tag", nargs="*")
    commands = parser.add_subparsers(dest="command")
    build = commands.add_parser("build", aliases=["b"])
    build.add_argument("--level", type=int)
    kinds = build.add_subparsers()
    pcb = kinds.add_parser("pcb")
    pcb.add_argument("board")
    pcb.add_argument("-o", "--output")
    pcb.add_argument("targets", nargs="*")
    commands.add_parser("other").add_argument("mode", choices=["secret", "plain"])
    return parser


@pytest.mark.parametrize(
    ("arguments", "command", "options", "outcome"),
    [
        (["build", "pcb", "secret", "secret"], "build pcb", [], "ok"),
        (["-v", "b", "pcb", "secret", "-osecret"], "build pcb", ["--verbose", "--output"], "ok"),
        (["-vq", "build", "--level", "-3", "pcb", "x"], "build pcb", ["--verbose", "-q", "--level"], "ok"),
        (["--home", "build", "pcb", "other", "secret"], "other", ["--home"], "ok"),
        (["--tag=secret", "other", "plain"], "other", ["--tag"], "ok"),
        (["--verb", "build", "pcb", "x", "--out", "secret"], "build pcb", ["--verbose", "--output"], "ok"),
        (["build", "pcb", "x", "--secret"], "build pcb", [], "usage"),
        (["secret"], "", [], "usage"),
        (["build", "--level", "secret"], "build", ["--level"], "usage"),
        (["--help", "build"], "", ["--help"], "ok"),
        ([], "", [], "ok"),
    ],
    ids=repr,
)
def test_commands_of_argparse(telemetry, events, monkeypatch, arguments, command, options, outcome):
    """The path and the names that the parser declares; of a command with aliases, the first."""

    @telemetry.run
    def main():
        argparse_program().parse_args()

    run_as(monkeypatch, main, *arguments)
    found = ended(events)
    assert (found["command"], found["options"]) == (command, options)
    assert outcome in (found["outcome"], None)
    assert "secret" not in str(events)


def test_a_command_behind_two_dashes(telemetry, events, monkeypatch):
    """It is one where argparse takes it for one, as newer versions do."""

    @telemetry.run
    def main():
        argparse_program().parse_args()

    run_as(monkeypatch, main, "--tag", "build", "--", "other", "secret")
    found = ended(events)
    assert (found["command"], found["options"]) == ("other" if found["outcome"] == "ok" else "", ["--tag"])


def test_another_thread_s_parser_is_not_the_run_s(telemetry, events):
    """Only the thread that runs the program is followed, and the last of its own parsers."""
    with telemetry.run():
        argparse.ArgumentParser(add_help=False).parse_known_args(["--early"])
        argparse_program().parse_args(["build"])
        thread = threading.Thread(target=argparse_program().parse_args, args=(["other", "plain"],))
        thread.start()
        thread.join()
    assert ended(events)["command"] == "build"


def test_a_name_is_given_by_keyword(telemetry):
    """The one argument of a decorator is the function."""
    with pytest.raises(TypeError, match="a function is decorated, not 'cli'; names are given by keyword"):
        telemetry.run("cli")


def test_a_command_whose_class_raises(telemetry, events):
    """Whatever a class of the program raises when it is looked at stays inside."""

    class Odd(click.Command):
        def get_params(self, ctx):
            if sys._getframe(1).f_globals["__name__"].startswith("atotelemetry"):
                raise SystemExit(9)
            return super().get_params(ctx)

    with pytest.raises(SystemExit) as caught, telemetry.run() as run:
        run["exit_code"] = [1]
        Odd("odd").main([])
    assert caught.value.code == 0
    assert ended(events) == {"exit_code": [1], "outcome": "ok"}


def test_a_parser_that_cannot_be_read(telemetry, events):
    """The program runs as ever; only the command line is not known."""

    class Odd(list):
        def __iter__(self):
            raise SystemExit(9)

    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true").option_strings = Odd(["--fast"])
    with telemetry.run():
        assert parser.parse_args(["--fast"]).fast
    assert ended(events) == {"exit_code": 0, "outcome": "ok", "command": "", "options": []}


def test_a_run_inside_a_run(telemetry, events):
    """Each has its own pair, and leaves the frameworks to the outer one."""
    with telemetry.run():
        with telemetry.run(start="inner", end="inner"):
            argparse_program().parse_args(["other", "plain"])
        argparse_program().parse_args(["build"])
    outer_start, _, inner_end, outer_end = events
    assert ended([outer_start, outer_end])["command"] == "build"
    assert said(inner_end, "command") == {"command": "other"}


def test_runs_that_overlap(telemetry, events):
    """As tasks do: the first that began ends first, a thousand times. Nothing of them stays."""
    parse = argparse.ArgumentParser.parse_known_args
    last = telemetry.run(start="", end="")
    last.__enter__()
    for _ in range(1000):
        run = telemetry.run(start="", end="")
        run.__enter__()
        last.__exit__(None, None, None)
        last = run
        assert argparse.ArgumentParser.parse_known_args is not parse
    assert argparse_program().parse_args(["other", "plain"]).mode == "plain"
    last.__exit__(None, None, None)


def test_another_library_that_replaces_the_same(telemetry, monkeypatch, tmp_path):
    """A function that was put in front of ours goes on working after the run."""
    parse = argparse.ArgumentParser.parse_known_args
    with captured(telemetry) as events:
        with telemetry.run():
            ours = argparse.ArgumentParser.parse_known_args
            theirs = lambda *given: ours(*given)  # noqa: E731, PLW0108 - another object
            monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", theirs)
        assert argparse_program().parse_args(["other", "plain"]).mode == "plain"
        monkeypatch.undo()
        with telemetry.run():
            argparse_program().parse_args(["build"])
    assert said(events[-1], "command") == {"command": "build"}
    assert argparse.ArgumentParser.parse_known_args is parse


def test_a_run_that_was_left_early(telemetry, events):
    """Before an `os.execv` that then fails: the program goes on, and returns what it returns."""
    run = telemetry.run()

    @run
    def main():
        run.__exit__(None, None, None)
        return 3

    assert main() == 3
    assert len(events) == 2
