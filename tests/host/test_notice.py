"""The notice before the first event: when it is printed, what it says, and that nothing is sent before."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from atotelemetry.host.consent import read_choice, read_consent
from atotelemetry.testing import CaptureServer
from support_home import ID, files_below, fresh_home, store

pty = pytest.importorskip("pty")

PROGRAM = """
import sys
from atotelemetry import Telemetry
{made} = Telemetry(app="mytool", api_key="phc_test", host={host!r}, run_properties=(){options})
print("made", flush=True)
sys.stdin.read()
{body}
telemetry.client.flush(20, delivered=True)
print("done", flush=True)
"""
TWO_EVENTS = 'telemetry.capture_event("one"); telemetry.capture_event("two")'


@pytest.fixture
def file(monkeypatch, tmp_path):
    return fresh_home(monkeypatch, tmp_path).parent.parent / "mytool" / "telemetry.yaml"


@pytest.fixture
def run(file, tmp_path, server, monkeypatch):
    """Return a function that runs a program, with a terminal as stderr or without; it returns stdout and stderr."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run_program(body=TWO_EVENTS, *, options="", terminal=True, at_once=1, **variables):
        source = PROGRAM.format(made="telemetry", host=server.url, options=options, body=body)
        master, slave = pty.openpty()
        try:
            processes = [
                subprocess.Popen(
                    [sys.executable, "-c", source],
                    env={**os.environ, **variables},
                    cwd=tmp_path,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=slave if terminal else subprocess.PIPE,
                    text=True,
                )
                for _ in range(at_once)
            ]
            # None goes on before all have looked: a program that starts after the first event is the next run.
            made = "".join(process.stdout.readline() for process in processes)
            for process in processes:
                process.stdin.close()
                process.stdin = None  # `communicate` would flush it
            ended = [process.communicate(timeout=60) for process in processes]
            assert [process.returncode for process in processes] == [0] * at_once
            os.write(slave, b"\0")  # the end of what there is to read
            screen = b""
            while not screen.endswith(b"\0"):
                screen += os.read(master, 65536)
        finally:
            os.close(master)
            os.close(slave)
        shown = screen[:-1].decode().replace("\r\n", "\n") if terminal else "".join(errors for _, errors in ended)
        return made + "".join(output for output, _ in ended), shown

    return run_program


def test_the_first_run_at_a_terminal_prints_and_sends_nothing(run, file, server):
    """Once, at the first event, on stderr; the file is there then, and the next run sends under its id."""
    output, shown = run()
    assert output == "made\ndone\n"
    assert shown.count("mytool reports") == 1
    for part in ("Nothing has been sent", "MYTOOL_TELEMETRY=log", "MYTOOL_TELEMETRY=off", "DO_NOT_TRACK=1", str(file)):
        assert part in shown
    assert re.search("read more: +[^ ]", shown)
    assert server.connection_count == 0
    known = read_choice(str(file))
    assert (known.state, len(known.id)) == ("on", 36)
    assert run() == ("made\ndone\n", "")
    assert {event["distinct_id"] for event in server.wait_for_events(2)} == {known.id}


def test_importing_and_making_print_nothing(run, file):
    """A run without an event hears nothing, and leaves nothing."""
    assert run("pass") == ("made\ndone\n", "")
    assert not file.exists()


@pytest.mark.parametrize(
    "body", ["with telemetry.capture('a', 'b'): pass", "telemetry.capture_exception(ValueError())"]
)
def test_any_kind_of_event_is_the_first(run, file, body):
    """Blocks and exceptions, too."""
    assert "mytool reports" in run(body)[1]
    assert file.exists()


def test_without_a_terminal_nothing_is_printed_made_or_sent(run, file, server):
    """However often it runs: nobody could have read it."""
    for _ in range(2):
        assert run(terminal=False) == ("made\ndone\n", "")
    assert not file.exists()
    assert server.connection_count == 0


@pytest.mark.parametrize(
    "variables", [{"_MYTOOL_COMPLETE": "complete_bash"}, {"COMP_LINE": "mytool b"}, {"_ARGCOMPLETE": "1"}]
)
def test_not_while_a_shell_completes(run, file, server, variables):
    """A program that only answers the tab key prints nothing, and its run does not count."""
    assert run(**variables) == ("made\ndone\n", "")
    assert not file.exists()
    assert server.connection_count == 0


@pytest.mark.parametrize("option", ["report_crash=True", "report_hang_after=300"])
def test_a_watched_run_says_so(run, option):
    """The notice names what is reported where no code of the program runs any more."""
    assert "hangs, and runs that were killed" in run(options=f", {option}")[1]


def test_a_text_of_the_applications_own(run, file):
    """It is printed as it is, but for control characters."""
    _, shown = run(options=', notice="Hello.\\nSee \\x1b[31mhttps://mytool.example\\n"')
    assert shown == "Hello.\nSee \\u001b[31mhttps://mytool.example\n"
    assert file.exists()


def test_on_in_the_environment_sends_and_prints_nothing(run, file, server):
    """Who says yes needs no notice; and no file is made that would pass for one."""
    assert run(MYTOOL_TELEMETRY="on") == ("made\ndone\n", "")
    assert len(server.wait_for_events(2)) == 2
    assert not file.exists()


@pytest.mark.parametrize("variables", [{"MYTOOL_TELEMETRY": "off"}, {"DO_NOT_TRACK": "1"}, {"CI": "1"}])
def test_who_has_said_no_hears_nothing(run, file, server, variables):
    """There is nothing to give notice of."""
    assert run(**variables) == ("made\ndone\n", "")
    assert not file.exists()
    assert server.connection_count == 0


def test_a_file_is_an_answer(run, file, server):
    """Yes or no, there is no notice."""
    store(file, f"id: {ID}\ntelemetry: false\n")
    assert run() == ("made\ndone\n", "")
    assert server.connection_count == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_without_a_notice_the_first_run_sends(run, file, server, terminal):
    """`notice=None` is for daemons and containers, and for applications that tell people elsewhere."""
    assert run(options=", notice=None", terminal=terminal) == ("made\ndone\n", "")
    assert len(server.wait_for_events(2)) == 2
    assert file.exists()


def test_where_no_file_can_be_made_nothing_is_ever_printed_or_sent(run, file, server, tmp_path):
    """Or the notice would come again with every run."""
    (tmp_path / "home" / ".config").write_text("in the way")
    for _ in range(2):
        assert run() == ("made\ndone\n", "")
    assert server.connection_count == 0


def test_two_instances_in_one_run(run, file, server):
    """The second finds the file of the first, and does not take it for an earlier run's."""
    body = """
telemetry.capture_event("one")
second = Telemetry(app="mytool", api_key="phc_test", host=telemetry.client.host)
second.capture_event("two")
second.client.flush(20, delivered=True)
"""
    assert run(body)[1].count("mytool reports") == 1
    assert server.connection_count == 0


def test_first_runs_at_once_end_with_one_id(run, file, server):
    """Each prints at most once, none sends, and one file is there."""
    output, shown = run(at_once=6)
    assert output.count("done") == 6
    assert 1 <= shown.count("mytool reports") <= 6
    assert server.connection_count == 0
    assert read_choice(str(file)).state == "on"
    assert files_below(file.parent) == ["telemetry.yaml"]


@pytest.mark.parametrize(
    "body", ["telemetry.client.disabled = True; telemetry.capture_event('x')", "telemetry.client.capture('x')"]
)
def test_a_switched_off_client_gives_no_notice(run, file, body):
    """A host's test suite, run in a terminal, leaves nothing in the developer's home; nor does the layer below."""
    assert run(body)[1] == ""
    assert not file.exists()


def test_atopile_is_as_it_was(file):
    """Without being asked, atopile gives no notice; it may be asked."""
    from atotelemetry import Telemetry

    made = {"app": "atopile", "api_key": "k", "host": "http://127.0.0.1:9"}
    assert Telemetry(**made).known()["telemetry"] == "on"
    assert Telemetry(**made, notice=True).known()["telemetry"] == "waiting"
    assert read_consent("atopile").mode == "on"


def test_the_address_in_the_metadata_is_where_to_read_more():
    """Else a command that shows more."""
    from atotelemetry.host.notice import text_for

    assert re.search("read more: +https://", text_for("pytest", "/x"))
    assert "-m atotelemetry status --app no-such-tool" in text_for("no-such-tool", "/x")


def test_a_notice_that_cannot_be_printed_is_none(file, monkeypatch):
    """If stderr fails, the file is not made either: the next run tries again."""
    from atotelemetry import Telemetry

    class Broken:
        encoding = "ascii"

        def isatty(self):
            return True

        def write(self, _text):
            raise OSError("gone")

    monkeypatch.setattr(sys, "stderr", Broken())
    with CaptureServer() as server:
        telemetry = Telemetry(app="mytool", api_key="k", host=server.url)
        assert telemetry.capture_event("one") is None
        assert telemetry.client.disabled
        assert server.connection_count == 0
    assert files_below(file.parent) == []
