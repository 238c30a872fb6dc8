"""A program written like atopile's CLI, run for real: its events are the ones that atopile's dashboards are made of."""

from __future__ import annotations

import shutil
import uuid

import pytest

from atotelemetry.version import __version__
from support_atopile import GIT_EMAIL, RUN, Ato
from support_home import ID, files_below, store
from support_hosts import hosts_in, needs_proc
from support_posthog_rules import check_exception_properties

pytestmark = [needs_proc, pytest.mark.skipif(shutil.which("git") is None, reason="the facts come from git")]

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


@pytest.fixture
def ato(tmp_path):
    """Install the older of the two programs."""
    with hosts_in(tmp_path, may_choose=True) as hosts:
        yield Ato(hosts, "past", "0.9.1")


def test_a_build_that_succeeds(ato):
    """Two events of one run and one person, with every property of a run and its value in this repository."""
    commit = ato.make_repository()
    store(ato.config, f"id: {ID}\ntelemetry: true\n")
    assert ato.run("build", "board.ato", "-b", "default", "--frozen") == (0, "built default of board.ato\n", "")
    assert [event["event"] for event in ato.server.events] == ["cli:build_start", "cli:build_end"]
    for event in ato.server.events:
        assert set(event) == {"uuid", "event", "distinct_id", "timestamp", "properties"}
        assert event["distinct_id"] == ID
        properties = event["properties"]
        assert set(properties) - {"$os_distro"} == {*RUN, *LIBRARY, "frozen"} - {"$os_distro"}
        known = ato.run_properties | {"current_git_hash": commit, "frozen": True} | dict.fromkeys(LIBRARY)
        assert properties | dict.fromkeys(("duration", "run_id", *LIBRARY)) == known
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
    assert ato.run("build", "-b", "broken") == (1, "", "error: no part for R1 in main.ato\n")
    assert [event["event"] for event in ato.server.events] == ["cli:build_start", "$exception"]
    event = ato.server.events[-1]
    properties = event["properties"]
    assert set(properties) - {"$os_distro"} == {*RUN, *LIBRARY, *EXCEPTION, "frozen"} - {"$os_distro"}
    check_exception_properties({name: properties[name] for name in EXCEPTION})
    assert properties["$exception_type"] == "PickError"
    assert properties["$exception_message"] == "no part for R1 in main.ato"
    assert properties["$exception_person"] == event["distinct_id"]
    assert properties["$exception_stack_trace"].rstrip().endswith("PickError: no part for R1 in main.ato")
    assert (properties["email"], properties["current_git_hash"]) == (GIT_EMAIL, commit)
    (entry,) = properties["$exception_list"]
    assert (entry["type"], entry["module"]) == ("PickError", "atopile.build")
    crash_site = entry["stacktrace"]["frames"][-1]
    assert (crash_site["function"], crash_site["module"], crash_site["in_app"]) == (
        "_build_target", "atopile.build", True,
    )  # fmt: skip


def test_a_command_that_gives_up(ato):
    """`typer.Exit` in the block ends it; to the old module it was an exception. The exit code stays."""
    assert ato.run("build", "-b", "gives-up") == (3, "", "")
    assert [event["event"] for event in ato.server.events] == ["cli:build_start", "cli:build_end"]
    properties = ato.server.events[-1]["properties"]
    assert (properties["exit_code"], properties["outcome"]) == (3, "error")


def test_a_decorated_command(ato):
    """A command that is decorated, and captures an event of its own inside, gives all three."""
    assert ato.run("install", "widget-lib") == (0, "installed widget-lib\n", "")
    assert [event["event"] for event in ato.server.events] == ["cli:install_start", "cli:package", "cli:install_end"]
    assert ato.server.events[1]["properties"]["package"] == "widget-lib"
    assert all(set(event["properties"]) >= set(RUN) - {"email"} for event in ato.server.events)


@pytest.mark.parametrize("arguments", [("build",), ("build", "-b", "broken"), ("install", "widget-lib")])
def test_a_person_who_opted_out(ato, arguments):
    """The program does and says the same, nothing arrives, and the file stays as it is."""
    content = store(ato.config, "telemetry: no  # thanks\n")
    silent = ato.run(*arguments)
    assert ato.server.connection_count == 0
    assert ato.config.read_bytes() == content
    assert files_below(ato.hosts.home) == [".config/atopile/telemetry.yaml"]
    measured = ato.run(*arguments, ATO_TELEMETRY="on")
    assert silent == measured
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
    ato.run("build", **environment)
    properties = ato.events("cli:build_start", "cli:build_end")[1]["properties"]
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
        environment = {"PATH": str(ato.packages)}
    code, _, errors = ato.run("build", **environment)
    assert (code, errors) == (0, "")
    assert [event["event"] for event in ato.server.events] == ["cli:build_start", "cli:build_end"]
    for event in ato.server.events:
        assert set(event["properties"]) >= set(RUN) - {"email"}
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
    assert {event["properties"]["project_id"] for event in ato.server.events} == {RUN["project_id"]}
