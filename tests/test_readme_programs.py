"""A new user's path: README's programs as they stand, each with a real sender."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from support_hosts import PATIENCE, hosts_in, needs_senders, read_to_end

pytestmark = needs_senders

README = Path(__file__).parents[1] / "README.md"
MOST_LINES = 15


@pytest.fixture
def hosts(tmp_path):
    """Real programs in a home of their own. They may create their `telemetry.yaml` and nothing else."""
    with hosts_in(tmp_path / "hosts", may_choose=True) as started:
        started.environment |= started.server.environment("mytool")
        yield started


def program(hosts, framework):
    """Write README's program for a framework; return its path."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (source,) = [block for block in blocks if block.startswith(f"# mytool.py, with {framework}\n")]
    return hosts.script(source, preamble=False, path=hosts.directory / "mytool.py"), source


def run(hosts, path, *arguments):
    return hosts.run_command([sys.executable, "-B", "-W", "error", path, *arguments])


def told(hosts, count):
    """Return name and properties of the events, in the order of their capture."""
    events = sorted(hosts.server.wait_for_events(count), key=lambda event: event["uuid"])
    hosts.wait_until_no_sender()
    return [(event["event"], event["properties"]) for event in events]


def end_of(properties):
    return {name: properties[name] for name in ("command", "options", "exit_code", "outcome") if name in properties}


@pytest.mark.parametrize("framework", ["typer", "argparse", "asyncio", "gunicorn"])
def test_telemetry_takes_few_lines(hosts, framework):
    """Of each program, fewer than 15 lines are about telemetry."""
    _, source = program(hosts, framework)
    about = re.findall(r"^.*(?:elemetry|block|\brun\b|app=\"mytool\").*$|^\)$", source, re.MULTILINE)
    assert 3 <= len(about) < MOST_LINES


def test_typer(hosts):
    """README's words about its first program hold."""
    path, _ = program(hosts, "typer")
    done = run(hosts, path, "build", "secret", "--jobs", "2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    events = told(hosts, 4)
    assert [name for name, _ in events] == ["cli:start", "build_start", "build_end", "cli:end"]
    assert (events[2][1]["files"], events[2][1]["target_kind"]) == (12, "pcb")
    assert end_of(events[3][1]) == {"command": "build", "options": ["--jobs"], "exit_code": 0, "outcome": "ok"}
    assert "secret" not in str(events)
    assert events[0][1]["is_tty"] is False


def test_argparse(hosts):
    """A run that a mistake of the person ends is one, too."""
    path, _ = program(hosts, "argparse")
    done = run(hosts, path, "build", "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    (_, start), (_, end) = told(hosts, 2)
    assert end["jobs_given"] is True
    assert end_of(end) == {"command": "build", "options": ["--jobs"], "exit_code": 0, "outcome": "ok"}
    assert end_of(start) == {}
    done = run(hosts, path, "build", "--jobs", "many")
    assert (done.returncode, "usage: " in done.stderr) == (2, True)
    *_, (_, end) = told(hosts, 4)
    assert end_of(end) == {"command": "build", "options": ["--jobs"], "exit_code": 2, "outcome": "usage"}


def test_asyncio(hosts):
    """Coroutines that run at once have an end each."""
    path, _ = program(hosts, "asyncio")
    done = run(hosts, path)
    assert (done.returncode, done.stderr) == (0, "")
    names = [name for name, _ in told(hosts, 6)]
    assert (names[0], names[-1]) == ("service:start", "service:end")
    assert sorted(names[1:-1]) == ["fetch_end", "fetch_end", "fetch_start", "fetch_start"]


# A signal that reaches a worker earlier is lost, and the server waits half a minute for it.
READY = """
def post_worker_init(worker):
    worker.log.info("ready")
"""


@pytest.mark.posix("gunicorn")
@pytest.mark.parametrize(
    ("more", "workers"),
    [([], 2), (["--preload"], 2), (["--max-requests=1"], 6)],
    ids=["plain", "preload", "recycled"],
)
def test_gunicorn(hosts, more, workers):
    """Each worker sends its own events, also one that the server replaces; the server never meets a sender."""
    path, _ = program(hosts, "gunicorn")
    ready = hosts.script(READY, preamble=False, path=Path(path).with_name("ready.py"))
    options = ["--bind=127.0.0.1:0", "--workers=2", "--no-control-socket", f"--config={ready}", *more]
    command = [sys.executable, "-B", "-m", "gunicorn", *options, f"--chdir={Path(path).parent}", "mytool:app"]
    host = hosts.start_command(command, stderr=subprocess.STDOUT)
    log = ""
    while log.count("] ready") < 2:
        log += host.hear()
    address = re.search(r"Listening at: (http://[0-9.:]+)", log)
    for _ in range(4):
        with urllib.request.urlopen(address[1], timeout=PATIENCE) as answer:
            assert answer.read() == b"hello\n"
    while log.count("] ready") < workers:
        log += host.hear()
    host.process.send_signal(signal.SIGTERM)
    done = host.finish()
    events = told(hosts, 8)
    assert sorted(name for name, _ in events) == ["request_end"] * 4 + ["request_start"] * 4
    assert {properties["method"] for _, properties in events} == {"GET"}
    assert [properties["status"] for name, properties in events if name == "request_end"] == [200] * 4
    assert done.returncode == 0
    assert not re.search("Traceback|WARNING|ERROR|CRITICAL", log + done.stdout), log + done.stdout


@pytest.mark.posix("a terminal with two ends")
def test_at_a_terminal(hosts):
    """`is_tty` is true where stdout is a terminal."""
    path, _ = program(hosts, "argparse")
    host, terminal = hosts.start_on_terminal([sys.executable, "-B", path, "build"])
    try:
        read_to_end(terminal)
    finally:
        os.close(terminal)
    assert host.finish().returncode == 0
    assert [properties["is_tty"] for _, properties in told(hosts, 2)] == [True, True]
