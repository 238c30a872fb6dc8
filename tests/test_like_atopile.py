"""A program written like atopile's CLI, run for real: its events are the ones that atopile's dashboards are made of."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from atotelemetry.testing import CaptureServer
from atotelemetry.version import __version__
from support_home import ID, files_below, store
from support_hosts import Hosts, needs_proc
from support_posthog_rules import check_exception_properties

pytestmark = [needs_proc, pytest.mark.skipif(shutil.which("git") is None, reason="the facts come from git")]

PROGRAM = Path(__file__).parent / "hosts_like_atopile" / "past"
EMAIL = "dev@acme.example"
WIDGET = hashlib.sha256(b"github.com/acme/widget").hexdigest()

# What DESIGN.md, section 10, lists: on every event, whatever its name, also where the value is not known.
RUN = {
    "duration",
    "run_id",
    "email",
    "current_git_hash",
    "project_id",
    "ci_provider",
    "platform",
    "via_docker",
    "via_vsce",
    "install_method",
    "github_action_repository",
    "github_repository_owner",
    "github_repository",
    "atopile_version",
    "agent",
    "$arch",
    "is_tty",
}
# About the library and the machine, as PostHog's own SDK names it.
LIBRARY = {
    "$lib",
    "$lib_version",
    "$geoip_disable",
    "$python_runtime",
    "$python_version",
    "$os",
    "$os_version",
    "$os_distro",
    "$app_namespace",
    "$app_version",
}
EXCEPTION = {
    "$exception_message",
    "$exception_type",
    "$exception_stack_trace",
    "$exception_person",
    "$exception_list",
    "$exception_level",
}


class Ato:
    """The program, a repository to run it in, and what arrived."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.server = hosts.server
        self.repository = hosts.directory / "widget"
        self.repository.mkdir()
        # Version 0.9.1 is installed, so far as its metadata goes.
        packages = hosts.directory / "packages"
        store(
            packages / "atopile-0.9.1.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: atopile\nVersion: 0.9.1\n"
        )
        path = [str(PROGRAM), str(packages), hosts.environment.get("PYTHONPATH", "")]
        hosts.environment |= {
            "PYTHONPATH": ":".join(entry for entry in path if entry),
            "ATO_SERVICES_TELEMETRY_URL": hosts.server.url,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.config = hosts.home / ".config" / "atopile" / "telemetry.yaml"

    def git(self, *arguments):
        command = ["git", "-c", "init.defaultBranch=main", *arguments]
        done = subprocess.run(
            command, cwd=self.repository, env=self.hosts.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def make_repository(self):
        """Make a repository with a remote, a person and a commit; return the commit's name."""
        self.git("init", "--quiet")
        self.git("config", "user.email", EMAIL)
        self.git("config", "user.name", "Dev")
        self.git("remote", "add", "origin", "git@github.com:acme/widget.git")
        self.git("commit", "--quiet", "--allow-empty", "--no-gpg-sign", "--message", "first")
        return self.git("rev-parse", "HEAD")

    def run(self, *arguments, cwd=None, environment=None):
        """Run the program to its end, and its sender to its end."""
        done = self.hosts.run_command(
            [sys.executable, "-m", "atopile", *arguments], cwd=cwd or self.repository, environment=environment
        )
        self.hosts.wait_until_no_sender()
        return done

    def event(self, name):
        (event,) = [event for event in self.server.events if event["event"] == name]
        return event


@pytest.fixture
def ato(tmp_path):
    with CaptureServer() as server:
        hosts = Hosts(tmp_path, server)
        try:
            yield Ato(hosts)
        finally:
            shutil.rmtree(hosts.home / ".config", ignore_errors=True)
            left = hosts.close()
        assert not left, "left behind: " + "; ".join(left)


def test_a_build_that_succeeds(ato):
    """Two events of one run and one person, with every property of a run and its value in this repository."""
    commit = ato.make_repository()
    store(ato.config, f"id: {ID}\ntelemetry: true\n")
    done = ato.run("build", "board.ato", "-b", "default", "--frozen")
    assert (done.returncode, done.stdout, done.stderr) == (0, "built default of board.ato\n", "")
    assert [event["event"] for event in ato.server.events] == ["cli:build_start", "cli:build_end"]
    for event in ato.server.events:
        assert set(event) == {"uuid", "event", "distinct_id", "timestamp", "properties"}
        assert event["distinct_id"] == ID
        properties = event["properties"]
        assert set(properties) - {"$os_distro"} == (RUN | LIBRARY | {"frozen"}) - {"$os_distro"}
        assert properties | {"duration": 0, "run_id": "", **dict.fromkeys(LIBRARY)} == {
            "frozen": True,
            "duration": 0,
            "run_id": "",
            "email": EMAIL,
            "current_git_hash": commit,
            "project_id": WIDGET,
            "ci_provider": None,
            "platform": sys.platform,
            "via_docker": False,
            "via_vsce": False,
            "install_method": "pip",
            "github_action_repository": None,
            "github_repository_owner": None,
            "github_repository": None,
            "atopile_version": "0.9.1",
            "agent": None,
            "$arch": platform.machine(),
            "is_tty": False,
            **dict.fromkeys(LIBRARY),
        }
        assert (properties["$lib"], properties["$lib_version"]) == ("atotelemetry", __version__)
        assert uuid.UUID(properties["run_id"]).version == 4
    start, end = (event["properties"] for event in ato.server.events)
    assert start["run_id"] == end["run_id"]
    assert start["duration"] < end["duration"]
    for request in ato.server.requests:
        assert request.api_key == "phc_like_atopile"
        assert request.headers["User-Agent"] == "atopile/0.9.1"


def test_a_build_that_fails(ato):
    """The start, and the exception once, though block and `main` both saw it, as both of PostHog's readers want it."""
    commit = ato.make_repository()
    done = ato.run("build", "-b", "broken")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: no part for R1 in main.ato\n")
    assert [event["event"] for event in ato.server.events] == ["cli:build_start", "$exception"]
    event = ato.event("$exception")
    properties = event["properties"]
    assert set(properties) - {"$os_distro"} == (RUN | LIBRARY | EXCEPTION | {"frozen"}) - {"$os_distro"}
    check_exception_properties({name: properties[name] for name in EXCEPTION})
    assert properties["$exception_type"] == "PickError"
    assert properties["$exception_message"] == "no part for R1 in main.ato"
    assert properties["$exception_person"] == event["distinct_id"]
    assert properties["$exception_stack_trace"].rstrip().endswith("PickError: no part for R1 in main.ato")
    assert (properties["email"], properties["current_git_hash"]) == (EMAIL, commit)
    (entry,) = properties["$exception_list"]
    assert (entry["type"], entry["module"]) == ("PickError", "atopile.build")
    crash_site = entry["stacktrace"]["frames"][-1]
    assert (crash_site["function"], crash_site["module"], crash_site["in_app"]) == (
        "_build_target", "atopile.build", True,
    )  # fmt: skip


def test_a_command_that_gives_up(ato):
    """`typer.Exit` in the block ends it; to the old module it was an exception. The exit code stays."""
    done = ato.run("build", "-b", "gives-up")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    assert [event["event"] for event in ato.server.events] == ["cli:build_start", "cli:build_end"]
    properties = ato.event("cli:build_end")["properties"]
    assert (properties["exit_code"], properties["outcome"]) == (3, "error")


def test_a_decorated_command(ato):
    """A command that is decorated, and captures an event of its own inside, gives all three."""
    done = ato.run("install", "widget-lib")
    assert (done.returncode, done.stdout, done.stderr) == (0, "installed widget-lib\n", "")
    assert [event["event"] for event in ato.server.events] == ["cli:install_start", "cli:package", "cli:install_end"]
    assert ato.event("cli:package")["properties"]["package"] == "widget-lib"
    assert all(set(event["properties"]) >= RUN - {"email"} for event in ato.server.events)


@pytest.mark.parametrize("arguments", [("build",), ("build", "-b", "broken"), ("install", "widget-lib")])
def test_a_person_who_opted_out(ato, arguments):
    """The program does and says the same, nothing arrives, and the file stays as it is."""
    content = store(ato.config, "telemetry: no  # thanks\n")
    silent = ato.run(*arguments)
    assert ato.server.connection_count == 0
    assert ato.config.read_bytes() == content
    assert files_below(ato.hosts.home) == [".config/atopile/telemetry.yaml"]
    measured = ato.run(*arguments, environment={"ATO_TELEMETRY": "on"})
    assert silent[:3] == measured[:3]
    assert len(ato.server.events) >= 2
    assert ato.config.read_bytes() == content


def test_in_continuous_integration(ato):
    """What the CI service and the container say about themselves is on the events."""
    environment = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTION_REPOSITORY": "atopile/setup-atopile",
        "GITHUB_REPOSITORY_OWNER": "acme",
        "GITHUB_REPOSITORY": "acme/widget",
        "ATO_VIA_DOCKER": "1",
    }
    ato.run("build", environment=environment)
    properties = ato.event("cli:build_end")["properties"]
    assert properties["ci_provider"] == "GitHub Actions"
    assert properties["github_action_repository"] == "atopile/setup-atopile"
    assert (properties["github_repository_owner"], properties["github_repository"]) == ("acme", "acme/widget")
    assert properties["via_docker"] is True


@pytest.mark.parametrize("git", ["outside a repository", "no git"])
def test_without_git(ato, git):
    """Outside a repository, or without git on the machine, the same events arrive, and nothing of git is known."""
    environment = {}
    if git == "no git":
        ato.make_repository()
        environment = {"PATH": str(ato.hosts.directory / "packages")}
    done = ato.run("build", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [event["event"] for event in ato.server.events] == ["cli:build_start", "cli:build_end"]
    for event in ato.server.events:
        assert set(event["properties"]) >= RUN - {"email"}
        assert [event["properties"].get(name, "left out") for name in ("email", "current_git_hash", "project_id")] == [
            "left out",
            None,
            None,
        ]


def test_first_runs_keep_one_person(ato):
    """The first run makes the file, the second is the same person; in a subdirectory it is the same project."""
    ato.make_repository()
    below = ato.repository / "elec" / "src"
    below.mkdir(parents=True)
    ato.run("build")
    ato.run("build", cwd=below)
    people = {event["distinct_id"] for event in ato.server.events}
    assert people == {ato.config.read_text().split()[1]}
    assert len({event["properties"]["run_id"] for event in ato.server.events}) == 2
    assert {event["properties"]["project_id"] for event in ato.server.events} == {WIDGET}
