"""`atotelemetry show`: what it prints is what a run sends, and nothing is sent or written."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from atotelemetry.testing import CaptureServer
from support_home import ID, files_below, store
from support_hosts import hosts_in, needs_senders

pytestmark = needs_senders

SECRET = "phc_this_is_the_key"


@pytest.fixture
def hosts(tmp_path):
    with hosts_in(tmp_path, may_choose=True) as started:
        started.environment["ATO_SERVICES_TELEMETRY_URL"] = started.server.url
        yield started
        assert started.server.connection_count == 0, "it only shows"


def show(hosts, *arguments, cwd=None, **variables):
    return hosts.run_command([sys.executable, "-m", "atotelemetry", "show", *arguments], cwd=cwd, environment=variables)


def shown(hosts, *arguments, **options):
    """Return the body that `show --json` prints."""
    done = show(hosts, "--json", *arguments, **options)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_a_new_user(hosts):
    """Before the first run: a start and an end event, an id that is announced, and still no file afterwards."""
    done = show(hosts)
    assert (done.returncode, done.stderr) == (0, "")
    preface, _, body = done.stdout.partition("\n\n")
    assert preface.splitlines()[:2] == [
        "Telemetry is on: no file yet: on by default.",
        f"A run in this directory would send this to {hosts.server.url}:",
    ]
    assert "- there is no id yet: a random one is made and kept at the first run" in preface.splitlines()
    assert "- ATO_TELEMETRY_API_KEY is not set: without a key of its own atopile sends nothing" in preface.splitlines()
    assert preface.endswith("\nNone of this was sent.")
    request = json.loads(body)
    assert [event["event"] for event in request["batch"]] == ["cli:build_start", "cli:build_end"]
    assert {event["distinct_id"] for event in request["batch"]} == {"(a random id, made at the first run)"}
    assert files_below(hosts.home) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="the facts come from git")
def test_the_values_of_this_directory(hosts):
    """The facts are those of the directory and the environment that it is called in, under the id of the file."""
    repository = hosts.directory / "widget"
    repository.mkdir()
    for arguments in (
        ("init", "--quiet"),
        ("config", "user.email", "zoë@acme.example"),
        ("remote", "add", "origin", "https://github.com/acme/widget.git"),
    ):
        subprocess.run(["git", *arguments], cwd=repository, env=hosts.environment, check=True)
    store(hosts.choice(), f"id: {ID}\ntelemetry: true\n")
    request = shown(hosts, cwd=repository, GITHUB_ACTIONS="true", LC_ALL="C")
    for event in request["batch"]:
        assert event["distinct_id"] == ID
        assert event["properties"]["email"] == "zoë@acme.example"
        assert event["properties"]["project_id"] == hashlib.sha256(b"github.com/acme/widget").hexdigest()
        assert event["properties"]["ci_provider"] == "GitHub Actions"
    for_people = show(hosts, cwd=repository, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert for_people.stderr == ""
    assert json.loads(for_people.stdout.partition("\n\n")[2].replace("\\xeb", "ë"))["batch"][0]["distinct_id"] == ID


def test_it_is_what_a_run_sends(hosts):
    """Key by key the same request as a real run's, but for what is new in every run."""
    store(hosts.choice(), f"id: {ID}\ntelemetry: true\n")
    request = shown(hosts)
    hosts.environment["ATO_TELEMETRY_API_KEY"] = SECRET
    with CaptureServer() as server:
        hosts.assert_runs(
            "from atotelemetry import *\nwith capture('cli:build_start', 'cli:build_end'): pass",
            environment={"ATO_SERVICES_TELEMETRY_URL": server.url},
            stdout=None,
        )
        server.wait_for_events(2)
        hosts.wait_until_no_sender()
        (sent,) = server.requests
    real = json.loads(sent.body)
    assert list(real) == list(request)

    def comparable(events):
        return [
            event | {"uuid": "", "timestamp": ""} | {"properties": event["properties"] | {"duration": 0, "run_id": ""}}
            for event in events
        ]

    assert comparable(request["batch"]) == comparable(real["batch"])
    assert [list(event["properties"]) for event in request["batch"]] == [
        list(event["properties"]) for event in real["batch"]
    ]


def test_an_exception(hosts):
    """With `--exception`, a third event shows what PostHog is told of one."""
    events = shown(hosts, "--exception")["batch"]
    assert [event["event"] for event in events] == ["cli:build_start", "cli:build_end", "$exception"]
    properties = events[2]["properties"]
    assert properties["$exception_message"] == "an example, with a path in ~/project and password=***"
    assert properties["$exception_list"][0]["stacktrace"]["frames"][-1]["function"] == "_fail"


def test_a_crash(hosts):
    """With `--crash`, a third event is the report of a native crash; no process crashes for it."""
    events = shown(hosts, "--crash")["batch"]
    assert [event["event"] for event in events] == ["cli:build_start", "cli:build_end", "$exception"]
    start, _, crash = events
    properties = crash["properties"]
    assert (properties["$exception_type"], properties["$exception_level"]) == ("SIGSEGV", "fatal")
    assert properties["$exception_list"][0]["stacktrace"]["frames"][-1]["function"] == "_crash"
    assert crash["distinct_id"] == start["distinct_id"]
    assert properties["run_id"] == start["properties"]["run_id"]


@pytest.mark.parametrize(
    ("variable", "value", "heading"),
    [
        ("DO_NOT_TRACK", "1", "Telemetry is off: DO_NOT_TRACK=1."),
        ("ATO_TELEMETRY", "log", "Telemetry only shows events on stderr: ATO_TELEMETRY=log."),
    ],
)
def test_what_would_be_sent_if_it_were_on(hosts, variable, value, heading):
    """Who opted out reads so first, with the reason, and then sees what it is about, under the stored id."""
    content = store(hosts.choice(), f"id: {ID}\ntelemetry: true\n")
    done = show(hosts, **{variable: value})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == heading
    assert lines[1] == f"If it were on, a run in this directory would send this to {hosts.server.url}:"
    assert json.loads(done.stdout.partition("\n\n")[2])["batch"][0]["distinct_id"] == ID
    assert hosts.choice().read_bytes() == content


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [("DO_NOT_TRACK", "1", "is off"), ("ATO_TELEMETRY", "log", "only shows events on stderr")],
)
def test_json_says_off_on_stderr(hosts, variable, value, what):
    """A script that reads the body is told, beside it, that nothing of it would be sent."""
    done = show(hosts, "--json", **{variable: value})
    assert done.returncode == 0
    assert done.stderr == f"telemetry {what}, nothing of this would be sent: {variable}={value}\n"
    assert json.loads(done.stdout)["batch"]


def test_what_is_no_text(hosts):
    """Bytes that are none in the person's encoding: an address turns telemetry off, an argument is an error."""
    variable = show(hosts, ATO_SERVICES_TELEMETRY_URL="http://127.0.0.1:9/\udcff")
    assert (variable.returncode, variable.stderr) == (0, "")
    reason = "the host 'http://127.0.0.1:9/\\udcff' is no URL: it is not readable as text"
    assert variable.stdout.startswith(f"Telemetry is off: ATO_SERVICES_TELEMETRY_URL: {reason}.\n")
    argument = show(hosts, "--app", "\udcff")
    assert (argument.returncode, argument.stdout) == (2, "")
    assert argument.stderr.endswith(" '\\udcff' is not the name of a program\n")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_no_secret(hosts, arguments):
    """Neither the key nor a password in the server's address is shown; and no delivery is noted in the log."""
    log = hosts.temp / "log"
    done = show(
        hosts,
        *arguments,
        ATO_TELEMETRY_API_KEY=SECRET,
        ATO_SERVICES_TELEMETRY_URL="https://me:secret@proxy.example/ingest",
        ATO_TELEMETRY_LOG=str(log),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET not in done.stdout
    assert "secret" not in done.stdout
    assert "(the project's key)" in done.stdout
    assert "ATO_TELEMETRY_API_KEY" not in done.stdout
    assert not log.exists()


def test_another_program(hosts):
    """--app shows it for another program: its file, its variables, and a server that only it knows."""
    store(hosts.choice("my-tool"), f"id: {ID}\ntelemetry: true\n")
    done = show(hosts, "--app", "my-tool")
    assert "would send this to the server that my-tool names:" in done.stdout
    events = json.loads(done.stdout.partition("\n\n")[2])["batch"]
    assert [(event["event"], event["distinct_id"]) for event in events] == [("cli:run_start", ID), ("cli:run_end", ID)]
    assert "app_version" in events[0]["properties"]


def test_a_run_that_could_send_nothing(hosts):
    """Where a run can have no sender, that is the answer, with the reason and exit code 1."""
    planted = hosts.directory / "here"
    shutil.copytree(_package(), planted / "atotelemetry", ignore=shutil.ignore_patterns("__pycache__"))
    done = show(hosts, cwd=planted)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "a run in this directory would send nothing: atotelemetry was imported from the working directory\n"
    )


def _package():
    import atotelemetry

    return atotelemetry.__path__[0]


@pytest.mark.posix("a shell with head")
def test_a_reader_that_went_away(hosts):
    """`atotelemetry show | head -1` ends quietly."""
    done = hosts.run_command(["sh", "-c", f"{sys.executable} -m atotelemetry show | head -1"])
    assert (done.stdout, done.stderr) == ("Telemetry is on: no file yet: on by default.\n", "")


OWN = """
from atotelemetry import Telemetry
telemetry = Telemetry(app="my-tool", api_key="phc_x", run_properties=("ci_provider",), notice=None)
"""


def test_with_the_programs_own_settings(hosts):
    """`--app module:name` shows it as the program has it: only the run properties that it asks for."""
    (hosts.work / "mytool.py").write_text(OWN)
    try:
        done = show(hosts, "--app", "mytool:telemetry", "--json", PYTHONDONTWRITEBYTECODE="1")
    finally:
        (hosts.work / "mytool.py").unlink()
    assert (done.returncode, done.stderr) == (0, "")
    start, _ = json.loads(done.stdout)["batch"]
    assert "ci_provider" in start["properties"]
    assert "current_git_hash" not in start["properties"]


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("nothing_of_this_name:telemetry", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("json:telemetry", "AttributeError: module 'json' has no attribute 'telemetry'"),
        ("json:loads", "TypeError: it is no Telemetry, but function"),
    ],
)
def test_a_program_that_cannot_be_imported(hosts, app, reason):
    """The reason is one line, and the exit code says that the call was wrong."""
    done = show(hosts, "--app", app)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{app} cannot be imported: {reason}\n"
