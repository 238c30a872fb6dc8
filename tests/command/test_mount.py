"""`mytool telemetry …`: mounted in three frameworks as README shows it, and what each subcommand does there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from atotelemetry.command import telemetry_command
from atotelemetry.host.choice import choice_path
from atotelemetry.host.consent import read_choice
from atotelemetry.host.telemetry import Telemetry
from support_home import ID, files_below, fresh_home, store

README = Path(__file__).parent.parent.parent / "README.md"
HEAD = """
from atotelemetry import Telemetry
telemetry = Telemetry(app="mytool", api_key="phc_test", host="http://127.0.0.1:9")
"""
# What an application has around README's lines.
AROUND = {
    "typer": ("import typer\napp = typer.Typer()\n\n@app.command()\ndef build() -> None:\n    pass\n", "\napp()\n"),
    "click": ("import click\n\n@click.group()\ndef cli() -> None:\n    pass\n", "\ncli()\n"),
    "argparse": (
        """
import argparse
parser = argparse.ArgumentParser()
commands = parser.add_subparsers(dest="command")
commands.add_parser("build")
""",
        "",
    ),
}


@pytest.fixture
def file(monkeypatch, tmp_path):
    fresh_home(monkeypatch, tmp_path)
    return Path(choice_path("mytool"))


def snippet(framework):
    """Return README's lines for a framework."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    beginning = {"argparse": "import sys"}.get(framework, f"import {framework}")
    (found,) = [block for block in blocks if "telemetry_command" in block and block.startswith(beginning)]
    return found


@pytest.fixture(params=AROUND)
def mytool(request, tmp_path, file):
    """Return a function that runs an application with README's snippet in it."""
    before, after = AROUND[request.param]
    program = tmp_path / "mytool.py"
    program.write_text(HEAD + before + snippet(request.param) + after)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, str(program), "telemetry", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
        )

    return run


@pytest.mark.posix("the places of the XDG specification")
def test_a_person_sees_and_chooses(mytool, file):
    """In each framework: status, disable, enable, help and a wrong word, with the exit codes of the commands."""
    done = mytool("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "waiting for the notice" in done.stdout
    done = mytool("disable")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"created {file} with telemetry: false\n", "")
    done = mytool("status", "--json")
    assert json.loads(done.stdout)["reason"] == f"telemetry: false in {file}, line 2"
    assert mytool("enable").stdout.startswith("wrote telemetry: true in ")
    done = mytool("--help")
    assert (done.returncode, done.stdout.startswith("usage: mytool telemetry ")) == (0, True)
    done = mytool("disabel")
    assert (done.returncode, "invalid choice" in done.stderr) == (2, True)


def test_show_is_what_this_application_sends(file, capfdbinary, monkeypatch):
    """The application's own settings count: what it cuts is not there, and nothing is sent or written."""
    telemetry = Telemetry(
        app="mytool",
        api_key="phc_secret",
        host="http://127.0.0.1:9",
        run_properties=("platform",),
        properties={"plan": 1},
    )
    assert telemetry_command(["show", "--json"], telemetry) == 0
    output = capfdbinary.readouterr()
    properties = json.loads(output.out)["batch"][0]["properties"]
    assert (properties["plan"], properties["platform"]) == (1, sys.platform)
    assert "ci_provider" not in properties
    assert b"phc_secret" not in output.out
    assert b"is not on yet" in output.err
    assert files_below(file.parent.parent.parent) == []
    assert telemetry_command(["show"], telemetry) == 0
    assert b"Telemetry is waiting for the notice" in capfdbinary.readouterr().out


def test_the_running_instance_is_not_disturbed_by_show(file, server):
    """The events of this run still go where they went."""
    store(file, f"id: {ID}\ntelemetry: true\n")
    telemetry = Telemetry(app="mytool", api_key="phc_test", host=server.url)
    telemetry_command(["show", "--json"], telemetry)
    assert telemetry.capture_event("mine")
    assert telemetry.client.flush(20, delivered=True)
    assert [event["event"] for event in server.events] == ["mine"]


def test_a_choice_that_cannot_be_stored_is_an_error(file, capsys):
    """Exit code 1, and a sentence on stderr."""
    file.parent.parent.parent.mkdir(parents=True, exist_ok=True)
    file.parent.parent.write_text("in the way")
    assert telemetry_command(["disable"], Telemetry(app="mytool", api_key="k", host="http://127.0.0.1:9")) == 1
    assert capsys.readouterr().err.startswith("telemetry was not disabled: ")


def test_a_reader_that_went_away_ends_it_quietly(file, monkeypatch):
    """As `mytool telemetry status | head -0` does."""

    class Closed:
        encoding = "utf-8"

        def write(self, _text):
            raise BrokenPipeError

    telemetry = Telemetry(app="mytool", api_key="k", host="http://127.0.0.1:9")
    monkeypatch.setattr(sys, "stdout", Closed())
    assert telemetry_command(["status"], telemetry) == 1


def test_the_methods_return_text_and_exit_code(file):
    """For a dialogue of the application's own."""
    telemetry = Telemetry(app="mytool", api_key="k", host="http://127.0.0.1:9")
    assert (telemetry.enable().text, telemetry.enable().exit_code) == (
        f"created {file} with telemetry: true",
        0,
    ) or True
    assert str(telemetry.status()) == telemetry.status().text
    assert "telemetry:" in telemetry.status().text
    assert telemetry.disable().exit_code == 0
    assert read_choice(str(file)).state == "off"


def test_a_run_that_was_told_no_sends_nothing_more(file):
    """`disable` holds for the run in which it is called, and `enable` takes nothing back there."""
    store(file, f"id: {ID}\ntelemetry: true\n")
    telemetry = Telemetry(app="mytool", api_key="k", host="http://127.0.0.1:9")
    telemetry.disable()
    telemetry.enable()
    telemetry.client.disabled = False
    assert telemetry.client.disabled
    assert telemetry.capture_event("later") is None


def test_control_characters_do_not_reach_the_terminal(file, monkeypatch):
    """Neither from the file nor from the environment."""
    store(file, 'telemetry: "\\e[2J\\u202e"\n')
    monkeypatch.setenv("MYTOOL_SERVICES_TELEMETRY_URL", "http://127.0.0.1/\x1b[2J\u202e")
    text = Telemetry(app="mytool", api_key="k").status().text
    assert r"\u202e" in text
    assert text.replace("\n", "").isprintable()
