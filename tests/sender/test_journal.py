"""`ATO_TELEMETRY_LOG`: what a sender did, for a person to read; and that writing it never stands in the way."""

import os
import re
import threading

import pytest

import atotelemetry
from atotelemetry.sender.journal import Journal
from atotelemetry.testing import Answer, CaptureServer
from support_sender import END, PATIENCE, event, hello, run_sender, to

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z sender\[\d+\] (.*)")


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


def said(path):
    """Return the texts in a log; each line must have its time and process."""
    lines = path.read_text().splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), lines
    return [match.group(1) for match in matches]


def test_any_sender_appends_its_verbose_log(server, tmp_path):
    """Also a detached one, which nobody can hear; a second one adds to it."""
    log = tmp_path / "sender.log"
    server.script(Answer(status=503))
    for _ in range(2):
        done = run_sender(
            hello(server.url, app="cli", app_version="2"),
            b"bad\n",
            event("e"),
            END,
            detached=True,
            env={"ATO_TELEMETRY_LOG": str(log)},
        )
        assert (done.exit_code, done.stderr) == (0, "")
    texts = [re.sub(r"in [\d.]+ (ms|s)", r"in N \1", text) for text in said(log)]
    body = len(server.requests[0].body)
    assert texts == [
        "skipped line 2: not valid JSON (JSON is malformed: invalid character (byte 0))",
        f"sending to {server.url} as cli/2",
        f"POST /capture/ 1 event, {body} bytes: HTTP 503: Service Unavailable in N ms",
        "retry 1 of 1 in N s",
        f"POST /capture/ 1 event, {body} bytes: HTTP 200 in N ms",
        "done: 1 event read, 1 delivered, 0 dropped, 1 bad line",
        "skipped line 2: not valid JSON (JSON is malformed: invalid character (byte 0))",
        f"sending to {server.url} as cli/2",
        f"POST /capture/ 1 event, {body} bytes: HTTP 200 in N ms",
        "done: 1 event read, 1 delivered, 0 dropped, 1 bad line",
    ]


def test_the_senders_of_a_client_write_it_too(server, tmp_path, monkeypatch):
    """A person only sets the variable and runs the CLI."""
    log = tmp_path / "sender.log"
    monkeypatch.setenv("ATO_TELEMETRY_LOG", str(log))
    client = atotelemetry.TelemetryClient("k", server.url)
    client.capture("built", distinct_id="me")
    assert client.flush(PATIENCE, delivered=True)
    client.shutdown()
    assert said(log)[-1] == "done: 1 event read, 1 delivered, 0 dropped"


@pytest.mark.parametrize("others", [{}, {"ATO_TELEMETRY_LOG": "other.log"}])
def test_every_program_has_a_log_of_its_own(server, tmp_path, monkeypatch, others):
    """`<APP>_TELEMETRY_LOG` is the application's, seen from where the host was, and wins over the common one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_TOOL_TELEMETRY_LOG", "mine.log")
    monkeypatch.setenv("THEIR_TOOL_TELEMETRY_LOG", "theirs.log")
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    client = atotelemetry.TelemetryClient("k", server.url, app="my-tool")
    client.capture("built", distinct_id="me")
    assert client.flush(PATIENCE, delivered=True)
    client.shutdown()
    assert said(tmp_path / "mine.log")[-1] == "done: 1 event read, 1 delivered, 0 dropped"
    assert not (tmp_path / "theirs.log").exists()


@pytest.mark.posix("permission bits")
def test_the_log_is_private(server, tmp_path):
    """Event names are nobody else's business."""
    log = tmp_path / "sender.log"
    run_sender(event("e"), arguments=to(server.url), env={"ATO_TELEMETRY_LOG": str(log)})
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_relative_log_is_seen_from_where_the_host_was(server, tmp_path, monkeypatch):
    """A detached sender leaves that directory."""
    monkeypatch.chdir(tmp_path)
    run_sender(hello(server.url), event("e"), END, detached=True, env={"ATO_TELEMETRY_LOG": "sender.log"})
    assert said(tmp_path / "sender.log")


@pytest.mark.posix("a directory that is in use can be removed")
def test_a_log_in_a_directory_that_is_gone_is_no_log(server, tmp_path, monkeypatch):
    """The events are delivered all the same."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = run_sender(hello(server.url), event("e"), END, detached=True, env={"ATO_TELEMETRY_LOG": "sender.log"})
    assert (done.exit_code, len(server.events)) == (0, 1)


@pytest.mark.parametrize(
    "where",
    [
        "no/such/directory/log",
        ".",
        "/dev/full",
        pytest.param("pipe", marks=pytest.mark.posix("named pipes in a directory")),
        "nul\0byte",
    ],
)
def test_a_log_that_cannot_be_written_stops_nobody(server, tmp_path, where):
    """A missing directory, a full disk, a named pipe that nobody reads."""
    path = tmp_path / where
    if where == "pipe":
        os.mkfifo(path)
    if "\0" in where:
        journal = Journal(to_stderr=False, verbose=False, log_path=where)
        journal.problem("said to nobody")
        return
    for detached in (True, False):
        done = run_sender(hello(server.url), event("e"), END, detached=detached, env={"ATO_TELEMETRY_LOG": str(path)})
        assert done.exit_code == 0
        assert "Traceback" not in done.stderr
    assert len(server.events) == 2


@pytest.mark.posix("a write at the end of a file is one step")
def test_the_lines_of_many_writers_do_not_mix(tmp_path):
    """A line is one write."""
    path = tmp_path / "log"
    journals = [Journal(to_stderr=False, verbose=False, log_path=str(path)) for _ in range(4)]

    def write(journal):
        for number in range(200):
            journal.detail(f"{number} " + "x" * 500)

    threads = [threading.Thread(target=write, args=(journal,)) for journal in journals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = said(path)
    assert len(texts) == 800
    assert {len(text.split()[1]) for text in texts} == {500}
    for journal in journals:
        os.close(journal._file)


def test_what_others_say_cannot_steer_a_terminal(capsys, tmp_path):
    """Event names and answers may hold escape sequences and line ends."""
    path = tmp_path / "log"
    journal = Journal(to_stderr=True, verbose=False, log_path=str(path))
    journal.problem("dropped \x1b[2J\nfake line\r \u2028 é")
    assert capsys.readouterr().err == "dropped \\u001b[2J\\nfake line\\r \\u2028 é\n"
    assert len(said(path)) == 1
    os.close(journal._file)


def test_credentials_do_not_get_into_it(server, tmp_path):
    """Neither the key nor what is written into the address."""
    log = tmp_path / "sender.log"
    host = server.url.replace("http://", "http://user:secret@")
    done = run_sender(hello(host, api_key="phc_private"), event("e"), END, env={"ATO_TELEMETRY_LOG": str(log)})
    assert done.exit_code == 0, done.stderr
    assert "secret" not in log.read_text()
    assert "phc_private" not in log.read_text()


def test_it_tells_of_what_the_host_dropped(server, tmp_path):
    """The end line's counts are for people, too."""
    log = tmp_path / "sender.log"
    end = b'{"type":"end","captured":9,"dropped":8}\n'
    run_sender(hello(server.url), event("e"), end, detached=True, env={"ATO_TELEMETRY_LOG": str(log)})
    assert "the host captured 9 events and dropped 8" in said(log)
