"""`atotelemetry status`, `enable`, `disable`: what they print, write and return."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from atotelemetry.command.consent import (
    add_choice_arguments,
    add_status_arguments,
    run_disable,
    run_enable,
    run_status,
)
from atotelemetry.facts import breaker
from atotelemetry.host.consent import read_choice, read_consent
from support_home import ID, files_below, fresh_home, store
from support_processes import run_python

SECRET = "phc_this_is_the_key"


@pytest.fixture
def file(monkeypatch, tmp_path):
    return fresh_home(monkeypatch, tmp_path)


def run(command, *arguments):
    """Run one subcommand in this process, as the program's entry point does; returns its exit code."""
    parser = argparse.ArgumentParser()
    (add_status_arguments if command is run_status else add_choice_arguments)(parser)
    return command(parser.parse_args(arguments))


def status_of(capsys, *arguments):
    assert run(run_status, "--json", *arguments) == 0
    return json.loads(capsys.readouterr().out)


def line_of(output, name):
    return next(line for line in output.splitlines() if line.startswith(f"{name}:")).partition(":")[2].strip()


def test_status_of_a_new_user(file, capsys, tmp_path):
    """Before the first run: on by default, no id, no file, and asking creates none."""
    assert run(run_status) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert line_of(output.out, "telemetry") == "on"
    assert line_of(output.out, "why") == "no file yet: on by default"
    assert line_of(output.out, "id") == "none yet"
    assert line_of(output.out, "file") == f"{file} (does not exist)"
    assert line_of(output.out, "endpoint") == "https://telemetry.atopileapi.com"
    assert line_of(output.out, "key") == "not set by ATO_TELEMETRY_API_KEY; atopile may bring its own"
    assert line_of(output.out, "log") == "none"
    assert line_of(output.out, "last known delivery") == "unknown"
    assert files_below(tmp_path) == []


def test_status_names_file_line_and_id(file, capsys):
    """Somebody who said no in the file sees where."""
    store(file, f"# mine\ntelemetry: off\nid: {ID}\n")
    assert run(run_status) == 0
    output = capsys.readouterr().out
    assert line_of(output, "telemetry") == "off"
    assert line_of(output, "why") == f"telemetry: off in {file}, line 2"
    assert line_of(output, "id") == ID
    assert line_of(output, "file") == str(file)


def test_status_explains_a_variable(file, capsys, monkeypatch):
    """A variable that decides is named; the id in the file is shown all the same."""
    store(file, f"id: {ID}\ntelemetry: true\n")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    found = status_of(capsys)
    assert (found["telemetry"], found["enabled"], found["reason"]) == ("off", False, "DO_NOT_TRACK=1")
    assert (found["id"], found["file"], found["file_exists"]) == (ID, str(file), True)


def test_status_tells_what_log_means(file, capsys, monkeypatch):
    """The third mode is spelt out."""
    monkeypatch.setenv("ATO_TELEMETRY", "log")
    assert run(run_status) == 0
    assert line_of(capsys.readouterr().out, "telemetry") == "log (events are shown on stderr, nothing is sent)"


def test_status_explains_damage(file, capsys):
    """A file that cannot be understood is named as the reason for off."""
    store(file, "telemetry: maybe\n")
    found = status_of(capsys)
    assert found["telemetry"] == "off"
    assert found["reason"] == f"damaged: {file}, line 1: `telemetry: maybe` is neither yes nor no"
    assert found["advice"] == f"write `telemetry: true` or `telemetry: false` into {file}"


def test_status_names_a_key_that_is_none(file, capsys):
    """A file that says no in other words: off, with line and key, and with the words to write instead."""
    store(file, f"id: {ID}\nenabled: false\n")
    assert run(run_status) == 0
    output = capsys.readouterr().out
    reason = "`enabled` is no key of this file, and there is no `telemetry`"
    assert line_of(output, "why") == f"damaged: {file}, line 2: {reason}"
    assert line_of(output, "advice") == f"write `telemetry: true` or `telemetry: false` into {file}"


def test_status_says_that_ci_is_no(file, capsys, monkeypatch):
    """And how to have it otherwise."""
    monkeypatch.setenv("CI", "true")
    assert run(run_status) == 0
    assert line_of(capsys.readouterr().out, "why") == "CI=true: not in CI, unless ATO_TELEMETRY=on"


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_status_never_prints_a_secret(file, capsys, monkeypatch, json_flag):
    """Neither the key nor a password in the endpoint's address is shown, only that they are set."""
    monkeypatch.setenv("ATO_TELEMETRY_API_KEY", SECRET)
    monkeypatch.setenv("ATO_SERVICES_TELEMETRY_URL", "https://me:secret@proxy.example:8443/ingest")
    assert run(run_status, *json_flag) == 0
    output = capsys.readouterr().out
    assert SECRET not in output
    assert "secret" not in output
    assert "https://proxy.example:8443/ingest" in output
    if json_flag:
        assert json.loads(output)["api_key_set"] is True
    else:
        assert line_of(output, "key") == "set by ATO_TELEMETRY_API_KEY"


def test_status_explains_an_address_that_is_none(file, capsys, monkeypatch):
    """With a malformed endpoint telemetry is off, and the reason names the variable, but no password."""
    monkeypatch.setenv("ATO_SERVICES_TELEMETRY_URL", "https://me:secret@[::1")
    found = status_of(capsys)
    assert (found["telemetry"], found["enabled"], found["endpoint"]) == ("off", False, "https://[::1")
    assert found["reason"].startswith("ATO_SERVICES_TELEMETRY_URL: the host 'https://[::1' is no URL: ")


def test_status_says_when_the_network_failed(file, capsys, monkeypatch, tmp_path):
    """With the file that a person may remove; nothing while it works, and nothing where telemetry is off."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ATO_SERVICES_TELEMETRY_URL", "http://127.0.0.1:9")
    assert status_of(capsys)["network"] is None
    note = Path(breaker.note_of("atopile", "http://127.0.0.1:9"))
    note.parent.mkdir()
    note.write_bytes(breaker.encode(1, time.time()))
    assert status_of(capsys)["network"] == f"the last sender got no answer; the next run tries again ({note})"
    note.write_bytes(breaker.encode(2, time.time()))
    assert run(run_status) == 0
    said = line_of(capsys.readouterr().out, "network")
    assert re.fullmatch(r"the last 2 senders got no answer; no other starts for [56]\d s \(.*\)", said)
    monkeypatch.setenv("ATO_TELEMETRY", "off")
    assert status_of(capsys)["network"] is None


@pytest.mark.posix("named pipes in a directory")
def test_status_quotes_the_last_delivery(file, capsys, monkeypatch, tmp_path):
    """The newest summary line in the sender's log is the last known delivery, however long the log is."""
    log = tmp_path / "sender.log"
    log.write_text("done: 1 delivered\n" + "x" * 200_000 + "\n2026 done: 2 delivered\nlater line\n")
    monkeypatch.setenv("ATO_TELEMETRY_LOG", str(log))
    found = status_of(capsys)
    assert (found["log"], found["last_delivery"]) == (str(log), "2026 done: 2 delivered")
    log.write_bytes(b"\xff nothing yet\n")
    assert status_of(capsys)["last_delivery"] is None
    log.unlink()
    assert status_of(capsys)["last_delivery"] is None
    os.mkfifo(log)
    assert status_of(capsys)["last_delivery"] is None


@pytest.mark.posix("the places of the XDG specification")
def test_status_of_another_program(file, capsys, monkeypatch, tmp_path):
    """--app reads another program's variables and file, and claims nothing about its endpoint."""
    monkeypatch.setenv("ATO_TELEMETRY", "off")
    monkeypatch.setenv("MY_TOOL_TELEMETRY", "log")
    found = status_of(capsys, "--app", "my-tool")
    assert (found["app"], found["telemetry"], found["endpoint"]) == ("my-tool", "log", None)
    assert found["file"] == str(tmp_path / "home" / ".config" / "my-tool" / "telemetry.yaml")
    assert run(run_status, "--app", "my-tool") == 0
    assert line_of(capsys.readouterr().out, "endpoint") == "chosen by my-tool"


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "a\\b", "", "..", " "])
def test_a_path_is_no_program(file, capsys, name):
    """--app takes a name; a path, which would lead to another file, is a usage error."""
    with pytest.raises(SystemExit) as caught:
        run(run_disable, "--app", name)
    assert caught.value.code == 2
    assert "is not the name of a program" in capsys.readouterr().err


def test_disable_and_enable_edit_the_file_and_say_what_changed(file, capsys):
    """Each prints the new value, where it stands, and what stood there; other bytes stay."""
    store(file, f"id: {ID}  # me\ntelemetry: yes  # ok\n")
    assert run(run_disable) == 0
    assert capsys.readouterr().out == f"wrote telemetry: false in {file}, line 2 (it said telemetry: yes)\n"
    assert file.read_text() == f"id: {ID}  # me\ntelemetry: false  # ok\n"
    assert run(run_disable) == 0
    assert capsys.readouterr().out == f"nothing to change: telemetry: false in {file}, line 2\n"
    assert run(run_enable) == 0
    assert capsys.readouterr().out == f"wrote telemetry: true in {file}, line 2 (it said telemetry: false)\n"


def test_disable_before_the_first_run(file, capsys):
    """Somebody who says no before ever running the program is off from the first run on."""
    assert run(run_disable) == 0
    assert capsys.readouterr().out == f"created {file} with telemetry: false\n"
    assert read_consent().mode == "off"


def test_disable_and_enable_mend_a_damaged_file(file, capsys):
    """The damaged file is kept, and the person is told so."""
    store(file, "{[")
    assert run(run_disable) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"the old file could not be understood and is now {file}.bak; wrote a new one: ")
    assert read_consent().mode == "off"


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        (run_enable, "DO_NOT_TRACK=1"),
        (run_enable, "ATO_TELEMETRY=off"),
        (run_enable, "ATO_TELEMETRY=log"),
        (run_disable, "ATO_TELEMETRY=on"),
        (run_disable, "ATO_TELEMETRY=log"),
    ],
)
def test_a_variable_that_decides_otherwise_is_pointed_out(file, capsys, monkeypatch, command, setting):
    """The file is written all the same, and a warning names the variable that wins here."""
    name, value = setting.split("=")
    mode = "off" if name == "DO_NOT_TRACK" else value
    monkeypatch.setenv(name, value)
    assert run(command) == 0
    output = capsys.readouterr()
    assert output.out.endswith(f"\nbut {setting} decides here, so telemetry is {mode} wherever that is set\n")
    assert read_choice(str(file)).state == ("on" if command is run_enable else "off")


def test_a_variable_that_agrees_needs_no_warning(file, capsys, monkeypatch):
    """Saying no twice is no contradiction."""
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    assert run(run_disable) == 0
    assert "decides here" not in capsys.readouterr().out


@pytest.mark.posix("the places of the XDG specification")
@pytest.mark.parametrize(("command", "verb"), [(run_enable, "enabled"), (run_disable, "disabled")])
def test_a_choice_that_cannot_be_written_is_an_error(file, capsys, tmp_path, command, verb):
    """With a file in the place of the directory: exit code 1 and a sentence that names the path."""
    blocker = tmp_path / "home" / ".config"
    blocker.write_text("")
    assert run(command) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"telemetry was not {verb}: ")
    assert str(blocker) in output.err


@pytest.mark.posix("a home named by HOME")
def test_a_home_that_the_terminal_cannot_spell(file, capsys, monkeypatch, tmp_path):
    """A path outside the terminal's encoding is printed escaped instead of ending in a traceback."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "zoë"))
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        assert run(run_status) == 0
    screen.flush()
    assert b"zo\\xeb" in screen.buffer.getvalue()


def test_the_command_loads_no_http_stack(file):
    """In a process of its own, `disable` works and imports neither httpx nor msgspec."""
    program = """
import argparse, sys
from atotelemetry.command import consent
parser = argparse.ArgumentParser()
consent.add_choice_arguments(parser)
code = consent.run_disable(parser.parse_args([]))
print(sorted({"httpx", "msgspec", "ssl", "asyncio"} & set(sys.modules)))
sys.exit(code)
"""
    assert run_python(program) == f"created {file} with telemetry: false\n[]\n"
