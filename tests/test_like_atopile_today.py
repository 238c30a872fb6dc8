"""A program written like today's atopile, run for real: three commands, each with every kind of server."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from atotelemetry.testing import Answer, CaptureServer
from support_home import ID, store
from support_hosts import Hosts, needs_proc

HOST = Path(__file__).parent / "hosts_like_atopile" / "today"
PERSON, EMAIL, GIT_EMAIL = "user_1", "user_1@acme.example", "dev@acme.example"
PROJECT = "github.com/acme/widget"

# On every event, as atopile 0.15.9 names them. The values of the first three differ.
RUN = {
    "duration": None,
    "run_id": None,
    "current_git_hash": None,
    "email": EMAIL,
    "project": PROJECT,
    "project_id": hashlib.sha256(PROJECT.encode()).hexdigest(),
    "ci_provider": None,
    "platform": sys.platform,
    "via_docker": False,
    "via_vsce": False,
    "install_method": "pip",
    "github_action_repository": None,
    "github_repository_owner": None,
    "github_repository": None,
    "atopile_version": "0.15.9",
    # What atopile does not have, about who runs it and on what.
    "agent": None,
    "$arch": platform.machine(),
    "is_tty": False,
}
INVOCATION = {"build_invocation_id", "counting_unit", "outcome", "target_count"}

pytestmark = [needs_proc, pytest.mark.skipif(shutil.which("git") is None, reason="the facts come from git")]


class Ato:
    """The program, installed, in a repository, with somebody signed in."""

    def __init__(self, hosts: Hosts, sockets: str) -> None:
        self.hosts = hosts
        self.server = hosts.server
        self.repository = hosts.directory / "widget"
        self.repository.mkdir()
        packages = hosts.directory / "packages"
        metadata = "Metadata-Version: 2.1\nName: atopile\nVersion: 0.15.9\n"
        store(packages / "atopile-0.15.9.dist-info" / "METADATA", metadata)
        self.session = hosts.directory / "session.json"
        self.sign_in(PERSON, EMAIL)
        self.config = hosts.home / ".config" / "atopile" / "telemetry.yaml"
        store(self.config, f"id: {ID}\ntelemetry: true\n")
        path = [str(HOST), str(packages), hosts.environment.get("PYTHONPATH", "")]
        hosts.environment |= {
            "PYTHONPATH": os.pathsep.join(entry for entry in path if entry),
            "ATO_SERVICES_TELEMETRY_URL": hosts.server.url,
            "ATO_SESSION": str(self.session),
            "GIT_CONFIG_NOSYSTEM": "1",
            # Where the forkserver listens: the path of a socket is short.
            "TMPDIR": sockets,
        }
        for arguments in (
            ("init", "--quiet"),
            ("config", "user.email", GIT_EMAIL),
            ("config", "user.name", "Dev"),
            ("remote", "add", "origin", "git@github.com:acme/widget.git"),
            ("commit", "--quiet", "--allow-empty", "--no-gpg-sign", "--message", "first"),
        ):
            self.git(*arguments)
        self.commit = self.git("rev-parse", "HEAD")

    def git(self, *arguments):
        command = ["git", "-c", "init.defaultBranch=main", *arguments]
        environment = self.hosts.environment
        done = subprocess.run(command, cwd=self.repository, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def sign_in(self, person, email):
        self.session.write_text(json.dumps({"sub": person, "email": email}), encoding="utf-8")

    def start(self, *arguments, **environment):
        command = [sys.executable, "-m", "atopile", *arguments]
        return self.hosts.start_command(command, cwd=self.repository, environment=environment)

    def run(self, *arguments, **environment):
        """Run a command to its end."""
        return self.start(*arguments, **environment).finish()[:3]

    def events(self, *names):
        """Wait for events of these names; return them in their order, each once, with no other."""
        self.hosts.assert_arrived_once(*names)
        by_name = {event["event"]: event for event in self.server.events}
        return [by_name[name] for name in names]


@pytest.fixture
def ato(tmp_path):
    with CaptureServer() as server, tempfile.TemporaryDirectory(prefix="ato") as sockets:
        hosts = Hosts(tmp_path, server)
        try:
            yield Ato(hosts, sockets)
        finally:
            shutil.rmtree(hosts.home / ".config", ignore_errors=True)
            left = hosts.close()
        assert not left, "left behind: " + "; ".join(left)


def check_run(ato, events, **different):
    """Hold the properties of a run, and the person, against what they are there."""
    assert len({event["properties"]["run_id"] for event in events}) == 1
    for event in events:
        properties = event["properties"]
        found = {name: properties.get(name, "missing") for name in RUN}
        known = {"duration": found["duration"], "run_id": found["run_id"], "current_git_hash": ato.commit}
        assert found == RUN | known | different
        assert event["distinct_id"] == PERSON
        assert properties["duration"] >= 0


def test_build(ato):
    """A build of two targets is one pair of events, though two threads and two processes were at it."""
    assert ato.run("build", "left", "right") == (0, "built left right\n", "")
    ato.hosts.assert_arrived_once("cli:build_start", "cli:build_end", "worker:target", "worker:target")
    by_name = {name: [e for e in ato.server.events if e["event"] == name] for name in ato.hosts.arrived()}
    (start,), (end,), workers = by_name["cli:build_start"], by_name["cli:build_end"], by_name["worker:target"]
    check_run(ato, [start, end])
    for worker in workers:
        check_run(ato, [worker])
    assert set(end["properties"]) >= INVOCATION
    assert {event["properties"]["build_invocation_id"] for event in ato.server.events} == {
        start["properties"]["build_invocation_id"]
    }
    assert {worker["properties"]["target"] for worker in workers} == {"left", "right"}
    assert len({worker["properties"]["worker"] for worker in workers}) == 2
    described = [(it["properties"]["outcome"], it["properties"]["target_count"]) for it in (start, end)]
    assert described == [("started", 0), ("success", 2)]


def test_build_that_fails(ato):
    """A target that fails in its process ends the invocation as failed, and its exception arrives once."""
    code, stdout, stderr = ato.run("build", "broken", ATO_VSCE_PID="4711")
    assert (code, stdout, stderr) == (1, "", "error: no part for R1 in broken\n")
    _, end, worker, failure = ato.events("cli:build_start", "cli:build_end", "worker:target", "$exception")
    assert end["properties"]["outcome"] == "failed"
    check_run(ato, [end, failure], via_vsce=True)
    check_run(ato, [worker], via_vsce=True)
    assert failure["properties"]["$exception_type"] == "PickError"
    assert failure["properties"]["$exception_person"] == PERSON


def test_create(ato):
    """A decorated command, and an event in it whose properties name somebody else than the one signed in."""
    assert ato.run("create", "widget") == (0, "created widget\n", "")
    events = ato.events("cli:create_project_start", "cli:authenticated", "cli:create_project_end")
    check_run(ato, events)
    assert events[1]["properties"]["clerk_email"] == "dev@acme.example"


def test_create_that_fails(ato):
    """An exception that the block reports and the top of the program reports again arrives once."""
    assert ato.run("create", "taken") == (1, "", "error: taken\n")
    check_run(ato, ato.events("cli:create_project_start", "$exception"))


@pytest.mark.parametrize("crash", [False, True])
def test_serve(ato, crash):
    """A server hands over what it captured on its event loop's way out, ended by a signal or by a task that fails."""
    host = ato.start("serve", *(["--crash"] if crash else []))
    assert host.hear() == "serving"
    if not crash:
        host.send(signal.SIGTERM)
    host.assert_ends(int(crash))
    last = "$exception" if crash else "cli:serve_core_end"
    events = ato.events("cli:serve_core_start", *(["$exception", "cli:serve_core_end"] if crash else [last]))
    check_run(ato, events)


@pytest.mark.parametrize(
    ("session", "person", "email"),
    [
        ({"sub": PERSON}, PERSON, GIT_EMAIL),
        ({"sub": PERSON, "email": ""}, PERSON, GIT_EMAIL),
        ({"nobody": 1}, ID, GIT_EMAIL),
        (None, ID, GIT_EMAIL),
    ],
)
def test_identity(ato, session, person, email):
    """Without an e-mail address of theirs, or without anybody signed in, git's address is on the events."""
    ato.session.unlink()
    if session is not None:
        ato.session.write_text(json.dumps(session), encoding="utf-8")
    assert ato.run("create", "widget")[0] == 0
    for event in ato.events("cli:create_project_start", "cli:authenticated", "cli:create_project_end"):
        assert (event["distinct_id"], event["properties"]["email"]) == (person, email)


COMMANDS = {"build": ("build", "left"), "create": ("create", "widget"), "serve": ("serve",)}
SERVERS = {
    "hanging": Answer(hang=True),
    "failing": Answer(status=503),
    "resetting": Answer(reset=True),
    "refusing": None,
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", SERVERS)
def test_with_a_bad_server(ato, command, kind):
    """With a server that hangs, fails or is gone the program does and says the same, and waits for nothing."""
    answer = SERVERS[kind]
    address = {}
    if answer is None:
        address = {"ATO_SERVICES_TELEMETRY_URL": "http://127.0.0.1:9"}
    else:
        ato.server.respond(answer)
    host = ato.start(*COMMANDS[command], **address)
    if command == "serve":
        assert host.hear() == "serving"
        host.send(signal.SIGTERM)
    done = host.finish()
    healthy = {"build": "built left\n", "create": "created widget\n", "serve": ""}
    assert done[:3] == (0, healthy[command], "")
    if kind == "hanging":
        assert ato.hosts.senders(), "the program has ended, and its sender still waits for the server"
    assert ato.server.events == []


def test_a_person_who_opted_out(ato):
    """A no is found before anybody is asked who they are: no connection, and the file as it was."""
    content = store(ato.config, "telemetry: false\n")
    ato.session.write_text("damaged", encoding="utf-8")
    assert ato.run("build", "left") == (0, "built left\n", "")
    assert ato.server.connection_count == 0
    assert ato.config.read_bytes() == content


def test_the_readme_has_this_adoption():
    """README's diff adds exactly what this program's `telemetry.py` consists of."""
    source = (HOST / "atopile/telemetry/telemetry.py").read_text(encoding="utf-8")
    ours = source.partition("# --- README's adoption begins here\n")[2].partition("# --- and ends here")[0].strip()
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    hunk = readme.partition("+++ b/src/atopile/telemetry/telemetry.py\n")[2].partition("\n```")[0]
    added = "\n".join(line[1:] for line in hunk.splitlines() if line.startswith("+"))
    assert textwrap.dedent(ours) in added
