"""The sender as a tool for people: options, messages, exit codes, terminals."""

import json
import os
import signal
import subprocess
import sys

import pytest

from atotelemetry.testing import Answer, CaptureServer
from support_sender import (
    END,
    KEY,
    PATIENCE,
    RunningSender,
    closed_port,
    environment,
    event,
    events,
    hello,
    run_sender,
    to,
)


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


def test_a_line_written_by_hand_is_enough(server):
    """What an event needs beside its name is made up, and PostHog makes no person of it."""
    done = run_sender(b'{"event": "hello"}', arguments=to(server.url))  # without a newline, too
    assert done.exit_code == 0, done.stderr
    (arrived,) = server.events
    assert arrived["uuid"]
    assert arrived["distinct_id"]
    assert arrived["timestamp"].endswith("Z")
    assert arrived["properties"]["$process_person_profile"] is False


def test_without_verbose_success_is_silent(server):
    """As of any Unix filter."""
    done = run_sender(event("e"), arguments=["--host", server.url, "--api-key", KEY])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_verbose_reports_each_request_and_a_summary(server):
    """Events, bytes, status, milliseconds."""
    server.script(Answer(status=503, body="busy"))
    done = run_sender(events(2, properties={"p": "x" * 2000}), arguments=to(server.url, app="my-cli"))
    size = len(server.requests[0].body)
    zipped = server.requests[0].wire_bytes
    assert done.lines[0] == f"sending to {server.url} as my-cli/unknown"
    first, retry, second, summary = done.lines[1:]
    assert first.startswith(f"POST /batch/ 2 events, {size} bytes ({zipped} gzipped): HTTP 503: busy in ")
    assert first.endswith(" ms")
    assert retry.startswith("retry 1 of 1 in 0.")
    assert second.startswith("POST /batch/ 2 events, ")
    assert ": HTTP 200 in " in second
    assert summary == "done: 2 events read, 2 delivered, 0 dropped"
    assert done.stdout == ""


def test_drops_are_reported_without_verbose():
    """A person should know what was lost without having asked."""
    arguments = ["--host", f"http://127.0.0.1:{closed_port()}", "--api-key", KEY, "--max-retries", "0"]
    done = run_sender(event("lost"), arguments=arguments)
    assert done.exit_code == 1
    assert len(done.lines) == 1
    assert done.lines[0].startswith("dropped 1 event (lost): ConnectError: ")


def test_bad_lines_are_named_and_cost_no_other(server):
    """Valid JSON that is no event, no JSON at all, too much of it, a torn end."""
    done = run_sender(
        event("good", 1),
        b"not json\n",
        b'{"event": ""}\n',
        b"[1, 2]\n",
        b'{"event": "e", "properties": []}\n',
        b'{"event": "e", "uuid": "no uuid"}\n',
        b"\n",
        b'{"event": "huge", "properties": {"p": "' + b"x" * 1_000_000 + b'"}}\n',
        b"\xff\xfe\n",
        event("fine", 2),
        b'{"event": "torn',
        arguments=to(server.url),
    )
    assert done.exit_code == 1
    assert [event["event"] for event in server.events] == ["good", "fine"]
    skipped = [line.split(":")[0] for line in done.lines if line.startswith("skipped ")]
    assert skipped == [f"skipped line {number}" for number in (2, 3, 4, 5, 6, 8, 9, 11)]
    assert done.summary == "done: 2 events read, 2 delivered, 0 dropped, 8 bad lines"


def test_an_event_that_cannot_be_prepared_costs_no_other(server):
    """One that the decoder still took may be nested too deeply for what comes after."""
    patch = """
import atotelemetry.sender.batch as batch
real = batch.prepare
def prepare(event, *arguments, **fields):
    if event.event == "deep":
        raise RecursionError("maximum recursion depth exceeded")
    return real(event, *arguments, **fields)
batch.prepare = prepare
"""
    done = run_sender(event("a", 1), event("deep", 2), event("b", 3), arguments=to(server.url), patch=patch)
    assert done.exit_code == 1
    assert "dropped 1 event (deep): not encodable: maximum recursion depth exceeded" in done.lines
    assert [event["event"] for event in server.events] == ["a", "b"]


def test_a_recorded_stream_needs_no_options(server):
    """Its hello says where it goes; its end does not keep us."""
    done = run_sender(hello(server.url), event("e"), END)
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(server.events) == 1


def test_options_win_over_the_stream(server):
    """A recorded stream can be replayed to another server, and keeps the properties of its run."""
    recorded = hello(
        "http://elsewhere.invalid", properties={"run": 7}, app="recorded", app_version="3", endpoint="batch"
    )
    done = run_sender(recorded, event("e"), END, arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    (request,) = server.requests
    assert request.events[0]["properties"]["run"] == 7
    assert request.headers["User-Agent"] == "recorded/3"
    assert request.path == "/batch/"


def test_single_options_win_too(server):
    """Without naming another server."""
    done = run_sender(hello(server.url, endpoint="batch"), event("e"), arguments=["--endpoint", "capture"])
    assert done.exit_code == 0, done.stderr
    assert server.requests[0].path == "/capture/"


def test_events_without_an_address_are_a_wrong_call():
    """The message says what is missing."""
    done = run_sender(event("e"))
    assert done.exit_code == 2
    assert done.lines == [
        "error: events came before any hello line, and no --host and --api-key were given (see --help)"
    ]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"host": "ftp://somewhere"}, "http://"),
        ({"host": ""}, "http://"),
        ({"host": "https://"}, "http://"),
        ({"host": "http://user@"}, "http://"),
        ({"host": "http://127.0.0.1:abc"}, "abc"),
        ({"host": "http://127.0.0.1:99999"}, "no number up to 65535"),
        ({"host": "http://[::1"}, "IPv6"),
        ({"host": "http://127.0.0.1:1/?project=1"}, "without query and fragment"),
        ({"host": "http://127.0.0.1:1/#top"}, "without query and fragment"),
        ({"api_key": ""}, "api_key"),
        ({"endpoint": "both"}, "endpoint"),
        ({"sender_deadline": 0}, "positive"),
        ({"request_timeout": -1.0}, "positive"),
        ({"max_retries": -1}, "negative"),
    ],
)
def test_a_hello_that_cannot_be_used_is_a_wrong_call(server, settings, complaint):
    """What came before it is still delivered; what comes after goes nowhere."""
    good = hello(server.url)
    bad = json.dumps({**json.loads(good), **settings}).encode() + b"\n"
    done = run_sender(good, event("before", 1), bad, event("after", 2), END)
    assert done.exit_code == 2
    assert "the hello line cannot be used" in done.stderr
    assert complaint in done.stderr
    assert [event["event"] for event in server.events] == ["before"]


@pytest.mark.parametrize(
    "address",
    [
        "http://me:secret@127.0.0.1:1/?x=1",
        "http://me:secret@127.0.0.1:abc",
        "http://me:secret@127.0.0.1:abc/a://b",
        "ftp://me:secret@somewhere",
        "me:secret@somewhere",
    ],
)
def test_a_password_is_not_repeated(address):
    """What is wrong with an address is said without the credentials in it."""
    for done in (
        run_sender(event("e"), arguments=["--host", address, "--api-key", KEY]),
        run_sender(hello(address), event("e")),
    ):
        assert done.exit_code == 2
        assert "host" in done.stderr
        assert "secret" not in done.stderr


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda line: b'{"event": "torn", "dist' + line, id="glued to a torn line"),
        pytest.param(lambda line: line[:-5] + b"\n", id="torn"),
        pytest.param(lambda line: line.replace(b'"host"', b'"hosts"'), id="without a host"),
        pytest.param(lambda line: line[:-2] + b',"x":"' + b"x" * 1_000_000 + b'"}\n', id="too long"),
    ],
)
def test_a_damaged_hello_is_no_line_to_be_skipped(server, damage):
    """Its events must not go where the stream before it went."""
    with CaptureServer() as other:
        done = run_sender(
            hello(server.url), event("before", 1), damage(hello(other.url)), event("after", 2), arguments=["-v"]
        )
        assert other.requests == []
    assert done.exit_code == 2
    assert "error: the hello line cannot be used: line 3: " in done.stderr
    assert [event["event"] for event in server.events] == ["before"]


@pytest.mark.parametrize("settings", [{"sender_deadline": 1e300}, {"request_timeout": 1e300}, {"max_retries": 10**9}])
def test_settings_beyond_all_measure_still_work(server, settings):
    """They mean for ever."""
    done = run_sender(hello(server.url, **settings), event("e"), END)
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(server.events) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "http://127.0.0.1:1"],
        ["--api-key", "k"],
        ["--host", "127.0.0.1:1", "--api-key", "k"],
        ["--host", "http://127.0.0.1:abc", "--api-key", "k"],
        ["--host", "http://127.0.0.1:99999", "--api-key", "k"],
        ["--host", "http://127.0.0.1/?", "--api-key", "k"],
        ["--host", "http://127.0.0.1:1", "--api-key", ""],
        ["--timeout", "0"],
        ["--timeout", "soon"],
        ["--timeout", "nan"],
        ["--deadline", "-1"],
        ["--max-retries", "-1"],
        ["--max-retries", "many"],
        ["--endpoint", "both"],
        ["--no-such-option"],
        ["events.jsonl"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_a_wrong_call(arguments):
    """Exit code 2, and a message that names the option."""
    done = run_sender(arguments=arguments)
    assert done.exit_code == 2
    assert arguments[0].removeprefix("--") in done.stderr
    assert "Traceback" not in done.stderr


def test_help_explains_itself_with_an_example():
    """And it is the example that works."""
    done = run_sender(arguments=["--help"])
    assert (done.exit_code, done.stderr) == (0, "")
    options = "--host --api-key --endpoint --max-retries --timeout --dry-run --verbose --idle --deadline --compression"
    for word in [*options.split(), "ATO_TELEMETRY_LOG", "exit status"]:
        assert word in done.stdout
    assert """echo '{"event": "hello"}' | python -m atotelemetry.sender --host""" in done.stdout


def test_nothing_to_do_is_no_error():
    """An empty input is delivered completely."""
    done = run_sender()
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_dry_run_prints_the_bodies_and_sends_nothing(server):
    """Exactly the bytes that would be sent, one request a line."""
    lines = [hello(server.url, endpoint="capture", properties={"run": 7}), event("é", 1), event("b", 2)]
    done = run_sender(*lines, arguments=["--dry-run", "-v"], env={"PYTHONIOENCODING": "ascii"})
    assert done.exit_code == 0, done.stderr
    assert server.requests == []
    bodies = done.stdout.splitlines()
    assert [json.loads(body)["event"] for body in bodies] == ["é", "b"]
    assert done.summary == "done: 2 events read, 2 printed, 0 dropped"
    sent = run_sender(*lines)
    assert sent.exit_code == 0, sent.stderr
    assert [request.body.decode() for request in server.requests] == bodies


def test_dry_run_needs_no_server_and_no_key():
    """Plain event lines are enough; what is printed names no key."""
    done = run_sender(event("a", 1), event("b", 2), arguments=["--dry-run"])
    assert (done.exit_code, done.stderr) == (0, "")
    (body,) = map(json.loads, done.stdout.splitlines())
    assert [event["event"] for event in body["batch"]] == ["a", "b"]
    assert body["api_key"] == "(the project's key)"


def test_dry_run_into_a_closed_pipe_ends():
    """`… | head -0` is no reason for a traceback or a hang."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "atotelemetry.sender", "--dry-run"],
            input=hello("http://x") + events(3),
            stdout=closed,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


@pytest.mark.posix("a shell closes descriptors")
def test_dry_run_without_a_standard_output_is_a_wrong_call():
    """There is nowhere to print to."""
    script = f"exec {sys.executable} -P -m atotelemetry.sender --dry-run >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        input=hello("http://x") + event("e"),
        env=environment(),
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, b"error: standard output is closed\n")


@pytest.mark.posix("a shell closes descriptors")
@pytest.mark.parametrize("closed", ["0", "1", "2", "1 2", "0 1 2"])
def test_closed_standard_streams_do_no_harm(server, tmp_path, closed):
    """A closed stdin is a wrong call; without the others there is just nobody to tell."""
    stream = tmp_path / "stream"
    stream.write_bytes(hello(server.url) + event("e"))
    script = f"exec {sys.executable} -P -m atotelemetry.sender -v 0<{stream} " + " ".join(
        f"{descriptor}{'<' if descriptor == '0' else '>'}&-" for descriptor in closed.split()
    )
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=environment(), stderr=subprocess.PIPE, timeout=PATIENCE, check=False
    )
    assert done.returncode == (2 if "0" in closed else 0)
    assert len(server.events) == (0 if "0" in closed else 1)
    assert b"Traceback" not in done.stderr


def test_an_end_line_is_not_the_end_of_the_input(server):
    """The next stream is read however long it takes to come."""
    with RunningSender("-v", "--deadline", "0.3") as sender:
        sender.write(hello(server.url), event("first", 1), END)
        server.wait_for_events(1)
        with pytest.raises(subprocess.TimeoutExpired):
            sender.process.wait(1.5)
        sender.write(hello(server.url), event("second", 2), END)
        server.wait_for_events(2)
        done = sender.finish()
    assert done.exit_code == 0, done.stderr
    assert done.summary == "done: 2 events read, 2 delivered, 0 dropped"


@pytest.mark.parametrize("last", [b"", END], ids=["without end", "after an end line"])
def test_an_idle_input_counts_as_ended(server, last):
    """`--idle`: what was read is delivered, and the process gone though the input stays open."""
    with RunningSender(*to(server.url, idle=0.3)) as sender:
        sender.write(event("e"), last)
        done = sender.wait()
    assert done.exit_code == 0, done.stderr
    assert len(server.events) == 1


def test_events_are_delivered_as_they_come(server):
    """Nobody has to end the input for them to arrive."""
    with RunningSender(*to(server.url)) as sender:
        sender.write(event("first", 1))
        server.wait_for_events(1)
        sender.write(event("second", 2), event("third", 3))
        server.wait_for_events(3)
        assert sender.process.poll() is None
        done = sender.finish()
    assert done.exit_code == 0, done.stderr
    assert server.connection_count == 1


@pytest.mark.posix("a terminal with two ends")
def test_on_a_terminal_it_says_what_it_waits_for(server):
    """And Ctrl-D ends the input."""
    import pty

    controller, terminal = pty.openpty()
    with RunningTerminal(controller, terminal, to(server.url)) as process:
        assert b"waiting for events, one JSON object per line; end with Ctrl-D" in process.stderr.readline()
        os.write(controller, b'{"event": "typed"}\n')
        server.wait_for_events(1)
        os.write(controller, b"\x04")
        assert process.wait(PATIENCE) == 0
        assert b"done: 1 event read, 1 delivered" in process.stderr.read()


class RunningTerminal:
    """A sender that reads from a terminal."""

    def __init__(self, controller, terminal, arguments):
        self._controller = controller
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "atotelemetry.sender", *arguments],
            stdin=terminal,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        os.close(terminal)

    def __enter__(self):
        return self._process

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stderr.close()
        os.close(self._controller)


@pytest.mark.posix("signals end a sender")
def test_ctrl_c_ends_it(server):
    """Without a traceback, and with a word about what was delivered."""
    # Whoever runs the tests in the background has it ignored, and children inherit that.
    heed = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    with RunningSender(*to(server.url), patch=heed) as sender:
        sender.write(event("e"))
        server.wait_for_events(1)
        sender.read_stderr_until("POST /capture/")
        sender.process.send_signal(signal.SIGINT)
        done = sender.wait()
    assert done.exit_code == 130
    assert "Traceback" not in done.stderr
    assert done.lines[-1].startswith("interrupted: 1 event read, ")
