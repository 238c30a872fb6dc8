"""Which exceptions are exits of a program, and what its end event then says."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import os
import subprocess
import sys
import textwrap

import click
import pytest
import typer

from atotelemetry.host.outcome import exit_properties
from atotelemetry.testing import CaptureServer
from support_exceptions import caught

OK, ERROR, INTERRUPTED, USAGE = "ok", "error", "interrupted", "usage"


def exit_while_handling(error, code):
    """End the program as frameworks do."""
    try:
        raise error  # noqa: TRY301
    except Exception:
        sys.exit(code)


def made(module, name, base=Exception, **fields):
    """Return an exception of a class of that module and name: nothing is imported to know it."""
    return type(name, (base,), {"__module__": module, **fields})()


class Own(typer.Exit):
    """An application's own exit."""


@pytest.mark.parametrize(
    ("error", "code", "outcome"),
    [
        (SystemExit(), 0, OK),
        (SystemExit(0), 0, OK),
        (SystemExit(3), 3, ERROR),
        (SystemExit(True), 1, ERROR),
        (SystemExit("words"), 1, ERROR),
        (SystemExit(130), 130, INTERRUPTED),
        (KeyboardInterrupt(), 130, INTERRUPTED),
        (click.exceptions.Exit(0), 0, OK),
        (click.exceptions.Exit(4), 4, ERROR),
        (click.Abort(), 1, INTERRUPTED),
        (click.ClickException("x"), 1, USAGE),
        (click.UsageError("x"), 2, USAGE),
        (click.BadParameter("x"), 2, USAGE),
        (typer.Exit(), 0, OK),
        (typer.Exit(5), 5, ERROR),
        (Own(5), 5, ERROR),
        (typer.Abort(), 1, INTERRUPTED),
        (typer.BadParameter("x"), 2, USAGE),
        (made("typer._click.exceptions", "Exit", exit_code=7), 7, ERROR),
        (made("click.exceptions", "Exit", exit_code="odd"), 0, OK),
        (caught(argparse.ArgumentParser().parse_args, ["--unknown"]), 2, USAGE),
        (caught(argparse.ArgumentParser().parse_args, ["--help"]), 0, OK),
        (caught(click.Command("c").main, ["--unknown"]), 2, USAGE),
        (caught(click.Command("c", callback=lambda: sys.exit(2)).main, []), 2, ERROR),
        (caught(exit_while_handling, click.Abort(), 1), 1, INTERRUPTED),
        (caught(exit_while_handling, click.FileError("x"), 1), 1, USAGE),
        (caught(exit_while_handling, ValueError(), 2), 2, ERROR),
        (caught(exit_while_handling, click.Abort(), 0), 0, OK),
    ],
    ids=repr,
)
def test_exits(error, code, outcome):
    """An exit has the code that the program ends with, and says in a word why."""
    assert exit_properties(error) == {"exit_code": code, "outcome": outcome}


@pytest.mark.parametrize(
    "error",
    [
        GeneratorExit(),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
        made("trio._core._exceptions", "Cancelled", BaseException),
    ],
    ids=repr,
)
def test_cancelled(error):
    """What was cancelled has no exit code."""
    assert exit_properties(error) == {"outcome": "cancelled"}


class Odd(type):
    """A class of classes that answers nothing."""

    def __getattribute__(cls, name):
        raise RuntimeError(name)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ExceptionGroup("g", [typer.Exit(1)]),
        BaseExceptionGroup("g", [KeyboardInterrupt()]),
        made("pyo3_runtime", "PanicException", BaseException),
        made("elsewhere", "Exit"),
        made("clicker.exceptions", "Abort"),
        argparse.ArgumentTypeError("x"),
        Odd("Strange", (Exception,), {})(),
    ],
    ids=lambda error: type.__repr__(type(error)),
)
def test_failures(error):
    """Anything else is one, whatever base class it has."""
    assert exit_properties(error) is None


def test_ignored():
    """The application's own classes count with their subclasses, and may bring an exit code."""

    class Mistake(LookupError):
        exit_code = 9

    assert exit_properties(KeyError(), (LookupError,)) == {"exit_code": 1, "outcome": ERROR}
    assert exit_properties(Mistake(), (ValueError, LookupError)) == {"exit_code": 9, "outcome": ERROR}
    assert exit_properties(ValueError(), (LookupError,)) is None


PROGRAMS = {
    "typer": """
        import typer
        app = typer.Typer()
        @app.command()
        @telemetry.capture("start", "end")
        def build(how: str = ""):
            if how == "exit": raise typer.Exit(3)
            if how == "abort": raise typer.Abort
            if how == "usage": raise typer.BadParameter("no such thing")
            if how == "bug": raise ValueError("a bug")
        app()
    """,
    "click": """
        import click
        @click.command()
        @click.option("--how")
        @telemetry.capture("start", "end")
        def build(how):
            if how == "exit": raise click.exceptions.Exit(3)
            if how == "abort": raise click.Abort
            if how == "usage": raise click.UsageError("no such thing")
            if how == "bug": raise ValueError("a bug")
        build()
    """,
    "argparse": """
        import argparse
        with telemetry.capture("start", "end"):
            parser = argparse.ArgumentParser()
            parser.add_argument("--how")
            how = parser.parse_args().how
            if how == "exit": sys.exit(3)
            if how == "abort": raise KeyboardInterrupt
            if how == "usage": parser.error("no such thing")
            if how == "bug": raise ValueError("a bug")
            sys.exit()
    """,
}
ENDS = {
    "": {"exit_code": 0, "outcome": OK},
    "exit": {"exit_code": 3, "outcome": ERROR},
    "abort": {"outcome": INTERRUPTED},
    "usage": {"exit_code": 2, "outcome": USAGE},
}


@pytest.mark.parametrize("how", [*ENDS, "bug"])
@pytest.mark.parametrize("framework", PROGRAMS)
def test_real_programs(framework, how, tmp_path):
    """A program of each framework ends in each way as before, and its events say how."""
    program = textwrap.dedent("""
        import sys
        from atotelemetry import Telemetry
        telemetry = Telemetry(app="mytool", api_key="phc_test", host=sys.argv.pop(1))
    """) + textwrap.dedent(PROGRAMS[framework])
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "MYTOOL_TELEMETRY": "on"}
    for name in ("DO_NOT_TRACK", "ATO_TELEMETRY"):
        environment.pop(name, None)
    with CaptureServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", program, server.url, *(["--how", how] if how else [])],
            capture_output=True, text=True, env=environment, timeout=60, check=False,
        )  # fmt: skip
        server.wait_for_events(2)
        names = [event["event"] for event in server.events]
        last = server.events[-1]["properties"]
    if how == "bug":
        assert (done.returncode, names) == (1, ["start", "$exception"]), done.stderr
        assert last["$exception_list"][0]["mechanism"]["handled"] is False
        return
    assert names == ["start", "end"], done.stderr
    if framework != "argparse" and not how:
        assert "outcome" not in last  # nothing but a return
    else:
        assert last.items() >= ENDS[how].items()
        # Python ends by the signal itself, on Windows with the code of its own for that.
        assert done.returncode in {last["exit_code"], -2, 0xC000013A}
