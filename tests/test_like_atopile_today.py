"""A program written like today's atopile, run for real: three commands, each with every kind of server."""

from __future__ import annotations

import json
import shutil
import signal
import textwrap
from pathlib import Path

import pytest

from atotelemetry.testing import Answer
from support_atopile import GIT_EMAIL, PROGRAMS, PROJECT, Ato
from support_home import ID, store
from support_hosts import hosts_in, needs_proc

PERSON, EMAIL = "user_1", "user_1@acme.example"
INVOCATION = {"build_invocation_id", "counting_unit", "outcome", "target_count"}

pytestmark = [needs_proc, pytest.mark.skipif(shutil.which("git") is None, reason="the facts come from git")]


class Today(Ato):
    """Today's, in a repository, with somebody signed in."""

    def __init__(self, hosts):
        super().__init__(hosts, "today", "0.15.9")
        self.run_properties |= {"email": EMAIL, "project": PROJECT, "current_git_hash": self.make_repository()}
        self.session = hosts.directory / "session.json"
        self.session.write_text(json.dumps({"sub": PERSON, "email": EMAIL}), encoding="utf-8")
        hosts.environment["ATO_SESSION"] = str(self.session)
        store(self.config, f"id: {ID}\ntelemetry: true\n")


@pytest.fixture
def ato(tmp_path):
    with hosts_in(tmp_path, may_choose=True) as hosts:
        yield Today(hosts)


def check_run(ato, events, **different):
    """Hold the properties of a run, and the person, against what they are there."""
    assert len({event["properties"]["run_id"] for event in events}) == 1
    for event in events:
        properties = event["properties"]
        found = {name: properties.get(name, "missing") for name in ato.run_properties}
        known = {"duration": found["duration"], "run_id": found["run_id"]}
        assert found == ato.run_properties | known | different
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
    source = (PROGRAMS / "today/atopile/telemetry/telemetry.py").read_text(encoding="utf-8")
    ours = source.partition("# --- README's adoption begins here\n")[2].partition("# --- and ends here")[0].strip()
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    hunk = readme.partition("+++ b/src/atopile/telemetry/telemetry.py\n")[2].partition("\n```")[0]
    added = "\n".join(line[1:] for line in hunk.splitlines() if line.startswith("+"))
    assert textwrap.dedent(ours) in added
