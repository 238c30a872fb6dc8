"""`atotelemetry test`: one event on the real way, and the server's answer in words and exit code."""

from __future__ import annotations

import os
import re
import sys

import pytest

from atotelemetry.testing import Answer
from support_home import ID, files_below, store
from support_hosts import hosts_in, needs_senders

pytestmark = needs_senders

KEY = "phc_this_is_the_key"


@pytest.fixture
def hosts(tmp_path):
    with hosts_in(tmp_path, may_choose=True) as started:
        yield started


def send(hosts, *arguments, **variables):
    """Run `atotelemetry test`; the `hosts` fixture sees to it that no temporary file stays."""
    return hosts.run_command([sys.executable, "-m", "atotelemetry", "test", *arguments], environment=variables)


def here(hosts):
    return ("--host", hosts.server.url, "--api-key", KEY)


def test_delivered(hosts):
    """Exit code 0; where to, how long, the event's uuid; and nothing about the directory is on the event."""
    done = send(hosts, *here(hosts))
    assert (done.returncode, done.stderr) == (0, "")
    (event,) = hosts.server.events
    first, *lines, last = done.stdout.splitlines()
    url = re.escape(hosts.server.url)
    assert re.fullmatch(
        rf"delivered one event to {url}/capture/; it took \d+\.\d\d s, with the start of the sender", first
    )
    assert any(line.startswith("  POST /capture/ 1 event") and "HTTP 200" in line for line in lines)
    assert last == f"  event telemetry:test, uuid {event['uuid']}"
    assert event["event"] == "telemetry:test"
    assert hosts.server.requests[0].api_key == KEY
    assert {name for name in event["properties"] if not name.startswith("$")} == {"test", "duration", "run_id"}


def test_no_file_is_made(hosts):
    """Without an id the event is nobody's, and none is made; with one, it is that person's."""
    assert send(hosts, *here(hosts)).returncode == 0
    assert files_below(hosts.home) == []
    store(hosts.choice(), f"id: {ID}\ntelemetry: true\n")
    assert send(hosts, *here(hosts)).returncode == 0
    nobody, somebody = hosts.server.events
    assert nobody["properties"]["$process_person_profile"] is False
    assert (somebody["distinct_id"], "$process_person_profile" in somebody["properties"]) == (ID, False)


def test_variables(hosts):
    """The program's variables say where to and with which key; the options win over them."""
    done = send(hosts, ATO_TELEMETRY_API_KEY=KEY, ATO_SERVICES_TELEMETRY_URL=hosts.server.url)
    assert done.returncode == 0
    done = send(hosts, *here(hosts), ATO_TELEMETRY_API_KEY="phc_other", ATO_SERVICES_TELEMETRY_URL="http://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert [request.api_key for request in hosts.server.requests] == [KEY, KEY]


def test_another_program(hosts):
    """--app speaks for another program: its variables, its consent, its name."""
    done = send(
        hosts,
        "--app",
        "my-tool",
        MY_TOOL_TELEMETRY_API_KEY=KEY,
        MY_TOOL_SERVICES_TELEMETRY_URL=hosts.server.url,
        ATO_TELEMETRY="off",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert hosts.server.requests[0].headers["User-Agent"].startswith("my-tool/")
    done = send(hosts, "--app", "my-tool", "--api-key", KEY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "nothing was sent: there is no server; give --host URL or set MY_TOOL_SERVICES_TELEMETRY_URL\n"
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "HTTP 401: no such project"), (503, "HTTP 503: no such project"), (302, "HTTP 302: no such project")],
)
def test_refused(hosts, status, said):
    """Exit code 1, and the server's own words."""
    hosts.server.respond(Answer(status=status, body="no such project"))
    done = send(hosts, *here(hosts))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"not delivered to {hosts.server.url}/capture/; gave up after ")
    assert f"  dropped 1 event (telemetry:test): {said}\n" in done.stderr


def test_nobody_there(hosts):
    """A server that is down: exit code 1 and what the operating system says."""
    hosts.server.stop()
    done = send(hosts, *here(hosts))
    assert done.returncode == 1
    assert "ConnectError" in done.stderr


def test_a_server_that_hangs(hosts):
    """It gives up after `--timeout`, with exit code 1."""
    hosts.server.respond(Answer(hang=True))
    # Half a second of these three is kept for a word about what was lost (a fifth of a shorter time); a busy machine
    # needs that.
    done = send(hosts, *here(hosts), "--timeout", "3")
    assert done.returncode == 1
    assert "  dropped 1 event (telemetry:test): " in done.stderr
    assert len(hosts.server.requests) <= 1, "there was no time for a retry"
    assert done.seconds < 20


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"DO_NOT_TRACK": "1"}, "telemetry is off: DO_NOT_TRACK=1"),
        ({"ATO_TELEMETRY": "off"}, "telemetry is off: ATO_TELEMETRY=off"),
        ({"ATO_TELEMETRY": "log"}, "telemetry only shows events on stderr: ATO_TELEMETRY=log"),
    ],
)
def test_opted_out(hosts, variables, reason):
    """Who opted out is not made an exception of: nothing is sent, exit code 1, and the reason."""
    done = send(hosts, *here(hosts), **variables)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"nothing was sent: {reason}\n")
    assert hosts.server.connection_count == 0


def test_no_key(hosts):
    """There is no default key: without one nothing is sent, and the way to give one is named."""
    done = send(hosts, "--host", hosts.server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nothing was sent: there is no key; give --api-key KEY or set ATO_TELEMETRY_API_KEY\n"
    assert hosts.server.connection_count == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "telemetry.example"), "an http:// or https:// URL, not 'telemetry.example'"),
        (("--host", "http://"), "an http:// or https:// URL, not 'http://'"),
        (("--host", "http://[::1"), "the host 'http://[::1' is no URL"),
        (("--host", "http://127.0.0.1:abc"), "the host 'http://127.0.0.1:abc' is no URL"),
        (("--host", "http://127.0.0.1:99999"), "its port is no number up to 65535"),
        (("--host", "http://127.0.0.1:1/?a=b"), "a URL without query and fragment"),
        (("--timeout", "0"), "'0' is no number from 0.001 to 600"),
        (("--timeout", "soon"), "'soon' is no number from 0.001 to 600"),
        (("--timeout", "nan"), "'nan' is no number from 0.001 to 600"),
        (("--app", "a/b"), "'a/b' is not the name of a program"),
    ],
)
def test_called_wrongly(hosts, arguments, words):
    """Exit code 2, the usage, and which argument it was."""
    done = send(hosts, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: atotelemetry test ")
    assert words in done.stderr


def test_the_verdict_of_protocol_v1(hosts):
    """What the server says about the event is printed, whether it keeps it or not."""
    done = send(hosts, *here(hosts), "--protocol", "v1")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"delivered one event to {hosts.server.url}/i/v1/analytics/events; " in done.stdout
    assert "  verdicts: 1 x ok\n" in done.stdout
    over_quota = {"result": "drop", "details": "billing_limit_exceeded"}
    hosts.server.respond(Answer(results={"telemetry:test": over_quota}))
    done = send(hosts, *here(hosts), "--protocol", "v1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "  verdicts: 1 x drop (billing_limit_exceeded)\n" in done.stderr


def test_no_secret(hosts):
    """Neither the key nor a password in the server's address is printed."""
    host = hosts.server.url.replace("http://", "http://me:secret@")
    done = send(hosts, "--host", host, "--api-key", KEY)
    assert done.returncode == 0
    assert f"delivered one event to {hosts.server.url}/capture/" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr


def test_the_persons_log(hosts):
    """A person who keeps a log finds this delivery in it, too, and `status` reads it there."""
    log = hosts.directory / "telemetry.log"
    log.write_text("before\n")
    done = send(hosts, *here(hosts), ATO_TELEMETRY_LOG=str(log))
    assert done.returncode == 0
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert "done: " in lines[-1]
    assert "1 delivered, 0 dropped" in lines[-1]
    status = [sys.executable, "-m", "atotelemetry", "status"]
    assert lines[-1] in hosts.run_command(status, environment={"ATO_TELEMETRY_LOG": str(log)}).stdout


@pytest.mark.posix("named pipes in a directory")
def test_a_log_that_is_a_pipe_nobody_reads(hosts):
    """It keeps nobody: the result is there, and then what is wrong with the log."""
    log = hosts.directory / "log"
    os.mkfifo(log)
    done = send(hosts, *here(hosts), ATO_TELEMETRY_LOG=str(log))
    assert done.returncode == 0
    assert done.stdout.startswith("delivered one event to ")
    assert done.stderr == f"cannot write the log {log}: No such device or address\n"


def test_an_address_that_is_no_text(hosts):
    """Bytes that are none in the person's encoding: nothing was sent, and why."""
    done = send(hosts, "--api-key", KEY, ATO_SERVICES_TELEMETRY_URL="http://127.0.0.1:9/\udcff")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "nothing was sent: ATO_SERVICES_TELEMETRY_URL: the host 'http://127.0.0.1:9/\\udcff' is no URL:"
        " it is not readable as text\n"
    )


def test_no_sender(hosts):
    """Where no sender can be started at all, that is what it says."""
    done = hosts.run_command(
        [
            sys.executable,
            "-c",
            "import sys; sys.frozen = True; from atotelemetry.__main__ import main; sys.exit(main())",
            "test",
            *here(hosts),
        ]
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "frozen application" in done.stderr
