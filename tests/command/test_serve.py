"""`atotelemetry serve`: what it prints, records and answers, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from atotelemetry.testing import CaptureServer
from support_processes import PATIENCE

# A suite in the background of a shell hands an ignored SIGINT on to its children; a foreground `serve` has it working.
# Windows sends Ctrl-C to all processes of a console, so there a line on stdin stands for it.
PROGRAM = """
import signal, sys
from atotelemetry.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform == "win32":
    import _thread, threading
    threading.Thread(target=lambda: sys.stdin.readline() and _thread.interrupt_main(), daemon=True).start()
sys.exit(main(["serve", *sys.argv[1:]]))
"""

EVENT = {
    "event": "build finished",
    "distinct_id": "someone",
    "timestamp": "2026-01-02T03:04:05.000006Z",
    "uuid": "01890a5d-ac96-774b-bcce-b302099a8057",
    "properties": {"duration": 1.5, "naïve": [None]},
}

# An interpreter that is told not to buffer would hide that output is not flushed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"PYTHONUNBUFFERED", "NO_COLOR"}}

needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals to test with")


def command(*arguments):
    return [sys.executable, "-c", PROGRAM, *arguments]


def url_in(line):
    return line.split()[2].rstrip(",")


def post(url, body):
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)) as connection:
        connection.request("POST", "/batch/", body)
        return connection.getresponse().status


def batch(*events):
    return json.dumps({"api_key": "phc_test", "batch": events})


class Serving:
    """A running `serve` on a free port."""

    def __init__(self, process):
        self.process = process
        self.stdin, process.stdin = process.stdin, None  # `communicate` would close it
        self.url = url_in((process.stderr if "--json" in process.args else process.stdout).readline())

    def post(self, *events):
        return post(self.url, batch(*events))

    def end(self, how=signal.SIGINT):
        """Send the signal; return exit code, what was printed after the first line, and stderr."""
        self.send(how)
        output, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output, errors

    def send(self, how=signal.SIGINT):
        if sys.platform == "win32":
            self.stdin.write("\n")
            self.stdin.flush()
        else:
            self.process.send_signal(how)


@pytest.fixture
def serving():
    with contextlib.ExitStack() as running:

        def start(*arguments):
            process = running.enter_context(
                subprocess.Popen(
                    command("--port", "0", *arguments),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    env={**ENVIRONMENT, "PYTHONIOENCODING": "utf-8"},
                )
            )
            running.callback(process.kill)
            server = Serving(process)
            running.callback(server.stdin.close)
            return server

        yield start


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.posix("SIGTERM"))])
def test_shows_requests_and_events_until_a_signal(serving, how):
    """Each request is a line, each event its name, time and own properties; a signal ends it with exit code 0."""
    server = serving()
    assert server.post(EVENT) == 200
    code, output, errors = server.end(how)
    assert (code, errors) == (0, "")
    assert output == (
        f"POST /batch/  1 event  {len(batch(EVENT))} bytes  200\n"
        'run:  distinct_id="someone"\n'
        "build finished  03:04:05.000  duration=1.5  naïve=[null]\n"
        "Accepted 1 event in 1 request.\n"
    )


def test_the_common_part_is_shown_once_for_a_run(serving):
    """Ids, versions and facts about the run come with its first event, and again only where they change."""
    server = serving()
    common = {"$lib": "atotelemetry", "email": None, "run_id": "one"}
    first = {**EVENT, "properties": {**common, "n": 1}}
    second = {**EVENT, "properties": {**common, "n": 2, "email": "a@b.c"}}
    other = {**EVENT, "properties": {**common, "n": 3, "run_id": "two"}}
    for event in (first, first, second, other):
        server.post(event)
    _, output, _ = server.end()
    shown = [line for line in output.splitlines() if not line.startswith(("POST", "Accepted"))]
    assert shown == [
        'run:  distinct_id="someone"  $lib="atotelemetry"  email=null  run_id="one"',
        "build finished  03:04:05.000  n=1",
        "build finished  03:04:05.000  n=1",
        'run:  email="a@b.c"',
        "build finished  03:04:05.000  n=2",
        'run:  distinct_id="someone"  $lib="atotelemetry"  email=null  run_id="two"',
        "build finished  03:04:05.000  n=3",
    ]


def test_a_long_value_is_cut(serving):
    """A stack trace is not what one looks for here; `--verbose` has it."""
    server = serving()
    server.post({**EVENT, "properties": {"text": "x" * 5000}})
    _, output, _ = server.end()
    assert max(map(len, output.splitlines())) < 300


def test_json_is_one_line_an_event(serving):
    """A script reads the events from stdout and nothing else."""
    server = serving("--json")
    server.post(EVENT, {**EVENT, "event": "two\nlines"})
    code, output, errors = server.end()
    assert code == 0
    assert [json.loads(line) for line in output.splitlines()] == [EVENT, {**EVENT, "event": "two\nlines"}]
    assert errors == "Accepted 2 events in 1 request.\n"


def test_verbose_shows_every_property(serving):
    """Each event has its name, person, time and all properties, indented."""
    server = serving("--verbose")
    assert server.post(EVENT) == 200
    code, output, errors = server.end()
    assert (code, errors) == (0, "")
    assert output == (
        f"POST /batch/  1 event  {len(batch(EVENT))} bytes  200\n"
        "build finished  someone  2026-01-02T03:04:05.000006Z\n"
        "{\n"
        '  "duration": 1.5,\n'
        '  "naïve": [\n'
        "    null\n"
        "  ]\n"
        "}\n"
        "Accepted 1 event in 1 request.\n"
    )


def test_shows_events_as_they_arrive(serving):
    """An event is printed before the client has its answer, not when a buffer is full."""
    server = serving()
    server.post(EVENT)
    assert server.process.stdout.readline().startswith("POST /batch/")
    assert server.process.stdout.readline().startswith("run:  ")
    assert server.process.stdout.readline().startswith("build finished")


def test_says_why_a_request_is_refused(serving):
    """A request that PostHog would refuse is shown with status and reason, and counted apart."""
    server = serving()
    assert post(server.url, "no JSON") == 400
    assert server.post(EVENT, EVENT) == 200
    code, output, _ = server.end()
    assert code == 0
    assert "7 bytes  400 failed to parse request: " in output.splitlines()[0]
    assert output.endswith("Accepted 2 events in 1 request, refused 1 request.\n")


def test_status(serving):
    """--status answers everything with it; the events are shown nevertheless."""
    server = serving("--status", "503")
    assert server.post(EVENT) == 503
    _, output, _ = server.end()
    assert re.search(r"bytes  503\nrun:  .*\nbuild finished", output)
    assert output.endswith("Accepted 0 events in 0 requests, refused 1 request.\n")


def test_delay(serving):
    """--delay holds every answer back."""
    server = serving("--delay", "0.2")
    begun = time.monotonic()
    assert server.post(EVENT) == 200
    assert time.monotonic() - begun >= 0.2


def test_record_appends_what_was_accepted(serving, tmp_path):
    """--record adds the accepted events to the file, as they came and one a line, whatever they hold."""
    record = tmp_path / "events.jsonl"
    record.write_text('{"event": "earlier"}\n', newline="\n")
    strange = {**EVENT, "event": "line\nbreak \u2028 ü", "properties": {"big": 2**70}}
    server = serving("--record", str(record))
    server.post(EVENT, strange)
    server.post({**EVENT, "event": ""})
    assert len(record.read_text(encoding="utf-8").splitlines()) == 3  # written before the client was answered
    assert server.end()[0] == 0
    assert [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()] == [
        {"event": "earlier"},
        EVENT,
        strange,
    ]


def test_record_of_the_newer_protocol(serving, tmp_path):
    """An event by v1 is recorded as a sender reads it: its options and its session are properties again."""
    record = tmp_path / "events.jsonl"
    server = serving("--record", str(record))
    sender = [sys.executable, "-m", "atotelemetry.sender", "--host", server.url, "--api-key", "k", "--protocol", "v1"]
    event = {"event": "built", "properties": {"$session_id": "s", "$cookieless_mode": True, "n": 1}}
    subprocess.run(
        sender, input=json.dumps(event), env={**ENVIRONMENT, "NO_PROXY": "*"}, text=True, check=True, timeout=60
    )
    code, output, errors = server.end()
    assert (code, errors) == (0, "")
    assert "POST /i/v1/analytics/events  1 event" in output
    recorded = json.loads(record.read_text(encoding="utf-8"))
    assert recorded["properties"].items() >= event["properties"].items()
    assert not recorded.keys() & {"options", "session_id"}


def test_a_server_of_one_protocol(serving):
    """`--protocol v1` does not know /batch/."""
    server = serving("--protocol", "v1")
    assert server.post(EVENT) == 404


def test_terminal_is_not_at_the_mercy_of_an_event(serving):
    """Control characters and lone surrogates in an event are printed escaped."""
    server = serving()
    text = "\x1b[2J\x9b5n\n\ud800"
    server.post({**EVENT, "event": text, "distinct_id": text, "properties": {text: text}})
    code, output, errors = server.end()
    assert (code, errors) == (0, "")
    assert output.count(r"\u001b[2J\u009b5n\n\ud800") == 4
    assert not {"\x1b", "\x9b"} & set(output)


@pytest.mark.parametrize("depth", [900, 990, 3000, 100_000])
def test_an_event_that_is_nested_deeply_is_refused(serving, depth):
    """It is shown if it can be; in any case the server says so and goes on."""
    server = serving()
    nested = '{"x":' * depth + "1" + "}" * depth
    text = '{"api_key":"k","batch":[{"event":"e","distinct_id":"d","properties":' + nested + "}]}"
    with ThreadPoolExecutor() as pool:  # indented, it is more than a pipe holds
        printed = pool.submit(server.process.communicate, timeout=PATIENCE)
        assert post(server.url, text) == 400
        assert server.post(EVENT) == 200
        server.send()
        output, errors = printed.result()
    assert (server.process.returncode, errors) == (0, "")
    assert output.endswith("Accepted 1 event in 1 request, refused 1 request.\n")


def test_port_that_is_taken():
    """A taken port is one clear line on stderr and exit code 2."""
    with CaptureServer() as other:
        ended = subprocess.run(command("--port", str(other.port)), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"atotelemetry serve: cannot listen on port {other.port}: ")
    assert ended.stderr.count("\n") == 1


def test_record_that_cannot_be_written(tmp_path):
    """A record that cannot be opened is one clear line on stderr and exit code 2, before anything is served."""
    ended = subprocess.run(command("--record", str(tmp_path)), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"atotelemetry serve: cannot write {tmp_path}: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_record_that_cannot_be_written_any_more(serving):
    """A disk that fills up ends the server with a clear line and exit code 2."""
    server = serving("--record", "/dev/full")
    with contextlib.suppress(OSError, http.client.HTTPException):  # it may end before it answers
        server.post(EVENT)
    output, errors = server.process.communicate(timeout=PATIENCE)
    assert (server.process.returncode, errors.count("\n")) == (2, 1)
    assert errors.startswith("atotelemetry serve: cannot write /dev/full: ")
    assert output.endswith("Accepted 1 event in 1 request.\n")


def test_reader_that_goes_away(serving):
    """When nobody reads the output any more the server ends quietly, as a program in a pipeline does."""
    server = serving()
    server.process.stdout.close()
    with contextlib.suppress(OSError, http.client.HTTPException):  # it may end before it answers
        server.post(EVENT)
    assert server.process.wait(PATIENCE) == 1
    assert server.process.stderr.read() == ""


@pytest.mark.parametrize(
    "arguments", [("--port", "70000"), ("--port", "x"), ("--status", "99"), ("--status", "600"), ("--delay", "-1")]
)
def test_arguments_out_of_range(arguments):
    """An argument that makes no sense is refused with usage and exit code 2."""
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"argument {arguments[0]}: " in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "abc"), "'abc' is no whole number from 0 to 65535"),
        (("--status", "ok"), "'ok' is no whole number from 200 to 599"),
        (("--delay", "long"), "'long' is no number from 0 to 3600"),
    ],
)
def test_arguments_that_are_no_numbers(arguments, said):
    """The message is about what was written, not about our code."""
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"argument {arguments[0]}: {said}\n")


@needs_terminal
@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_colour_only_on_a_terminal(no_color, coloured):
    """On a terminal the names stand out, unless NO_COLOR is set."""
    import pty

    environment = ENVIRONMENT if no_color is None else {**ENVIRONMENT, "NO_COLOR": no_color}
    terminal, theirs = pty.openpty()
    with open(terminal, encoding="utf-8", newline="") as screen:
        with subprocess.Popen(command("--port", "0"), stdout=theirs, env=environment) as process:
            os.close(theirs)
            post(url_in(screen.readline()), batch(EVENT))
            lines = [screen.readline() for _ in range(3)]
            process.terminate()
        assert process.returncode == 0
    assert ("\x1b[1mbuild finished\x1b[0m" in lines[2]) is coloured
    assert any("\x1b" in line for line in lines) is coloured
