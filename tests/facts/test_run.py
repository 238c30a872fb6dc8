"""`facts/run.py`: the library, the machine, the run, and the list of names that is asked for."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading

import pytest

from atotelemetry import __version__
from atotelemetry.facts.run import (
    KNOWN_PROPERTIES,
    RUN_PROPERTIES,
    library_properties,
    release_properties,
    run_properties,
)
from support_atopile import PROJECT, RUN
from support_git import EMAIL, GIT_NAMES, PLENTY
from support_processes import run_python


def in_fresh_interpreter(program: str) -> object:
    """Run a program that prints JSON, and return it."""
    return json.loads(run_python(program))


class TestImport:
    def test_importing_is_cheap(self):
        """Importing the module loads nothing that costs milliseconds: hosts may import it for the loaders."""
        heavy = {
            "subprocess",
            "threading",
            "typing",
            "dataclasses",
            "hashlib",
            "platform",
            "uuid",
            "importlib.metadata",
            "json",
        }
        program = (
            "import sys, json\nbefore = set(sys.modules)\nimport atotelemetry.facts.run\n"
            "print(json.dumps(sorted(set(sys.modules) - before)))"
        )
        loaded = in_fresh_interpreter(program)
        assert heavy.isdisjoint(loaded)
        assert {name for name in loaded if name.startswith("atotelemetry.")} == {
            "atotelemetry.facts",
            "atotelemetry.facts.run",
            "atotelemetry.facts.text",
            "atotelemetry.ids",
            "atotelemetry.version",
        }

    def test_nothing_of_the_host_is_loaded(self):
        """Working everything out loads nothing of `host/`."""
        program = (
            "import sys, json\nfrom atotelemetry.facts import run\n"
            "run.library_properties(); run.run_properties(run.RUN_PROPERTIES, cwd=None)\n"
            "print(json.dumps([name for name in sys.modules if name.startswith('atotelemetry.host')]))"
        )
        assert in_fresh_interpreter(program) == []


class TestLibraryProperties:
    def test_library(self):
        """The library names itself, with the version of the package."""
        properties = library_properties()
        assert properties["$lib"] == "atotelemetry"
        assert properties["$lib_version"] == __version__
        assert properties["$geoip_disable"] is True

    def test_interpreter(self):
        """The interpreter is described as PostHog's SDK describes it."""
        properties = library_properties()
        assert properties["$python_runtime"] == platform.python_implementation()
        assert properties["$python_version"] == platform.python_version().split("rc")[0]

    @pytest.mark.parametrize(
        ("system", "function", "answer", "expected"),
        [
            ("darwin", "mac_ver", ("14.5", ("", "", ""), "arm64"), {"$os": "Mac OS X", "$os_version": "14.5"}),
            (
                "linux",
                "freedesktop_os_release",
                {"NAME": "Debian GNU/Linux", "VERSION_ID": "12"},
                {"$os": "Linux", "$os_version": "12", "$os_distro": "Debian GNU/Linux"},
            ),
            (
                "linux",
                "freedesktop_os_release",
                {"NAME": "Arch Linux"},
                {"$os": "Linux", "$os_version": "", "$os_distro": "Arch Linux"},
            ),
            ("freebsd14", "release", "14.1-RELEASE", {"$os": "FreeBSD", "$os_version": "14.1-RELEASE"}),
            ("sunos5", "release", "5.11", {"$os": "sunos5", "$os_version": "5.11"}),
        ],
    )
    def test_operating_system(self, monkeypatch, system, function, answer, expected):
        """Each operating system has the name and version that PostHog's SDK gives it."""
        monkeypatch.setattr(platform, function, lambda: answer)
        with monkeypatch.context() as only_here:
            only_here.setattr(sys, "platform", system)
            properties = library_properties()
        assert {name: value for name, value in properties.items() if name.startswith("$os")} == expected

    @pytest.mark.parametrize("error", [OSError("no os-release"), RuntimeError("something else")])
    def test_unknown_system(self, monkeypatch, error):
        """An operating system that cannot be asked costs its version, not the events."""

        def fail() -> None:
            raise error

        monkeypatch.setattr(platform, "freedesktop_os_release", fail)
        with monkeypatch.context() as only_here:
            only_here.setattr(sys, "platform", "linux")
            properties = library_properties()
        assert properties["$os"].lower() == "linux"
        assert properties["$os_version"] == ""
        assert "$os_distro" not in properties


class TestRelease:
    def test_names_of_the_release(self):
        """The application, its version and the id that a deployment gave it."""
        facts = release_properties("tool", "1.2", environ={"POSTHOG_RELEASE_ID": " 0192-abc\n"})
        assert facts == {"$app_namespace": "tool", "$app_version": "1.2", "$release_id": "0192-abc"}

    @pytest.mark.parametrize("environ", [{}, {"POSTHOG_RELEASE_ID": ""}, {"POSTHOG_RELEASE_ID": " "}])
    def test_what_is_not_known_is_left_out(self, environ):
        """PostHog would take a null for a value."""
        assert release_properties("tool", None, environ=environ) == {"$app_namespace": "tool"}


class TestNames:
    def test_everything(self, git, repository, head):
        """All properties come with None where they are not known, under the names and in the order listed."""
        facts = git.facts(repository, KNOWN_PROPERTIES)
        assert tuple(facts) == KNOWN_PROPERTIES
        of_here = {"email": EMAIL, "current_git_hash": head, "project": PROJECT}
        of_nobody = {"install_method": "unknown", "is_tty": None}  # the host's to say, and no host is installed
        assert facts == {name: (RUN | of_here | of_nobody)[name] for name in KNOWN_PROPERTIES}

    def test_by_name_only(self):
        """The address of the repository is for who asks for it by name."""
        assert set(KNOWN_PROPERTIES) - set(RUN_PROPERTIES) == {"project"}

    def test_an_email_that_is_not_known(self, git, tmp_path):
        """`email` is left out where it is not known."""
        git.config.write_text("", encoding="utf-8")
        assert git.facts(tmp_path, ("email", "project_id")) == {"project_id": None}
        assert run_properties(["email"], cwd=None) == {}

    @pytest.mark.parametrize("name", KNOWN_PROPERTIES)
    def test_cut_list(self, git, repository, name):
        """Only what was asked for is there, and names that nobody knows are ignored."""
        assert tuple(git.facts(repository, (name, "unknown", "run_id"))) == (name,)

    def test_nothing_is_run_for_the_environment(self, git, repository, monkeypatch):
        """A list of what only the environment says starts no thread and no process."""

        def refuse(*arguments, **options) -> None:
            pytest.fail("started")

        monkeypatch.setattr(subprocess, "Popen", refuse)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        slow = {*GIT_NAMES, "install_method", "$arch"}
        names = tuple(name for name in RUN_PROPERTIES if name not in slow)
        assert tuple(git.facts(repository, names, app_version="1")) == names

    def test_empty_list(self, git, repository):
        """Nothing asked, nothing worked out."""
        assert git.facts(repository, ()) == {}

    def test_version_of_the_host(self):
        """The version that the host gives is not looked up."""
        assert run_properties(["atopile_version"], cwd=None, app_version="1.2") == {"atopile_version": "1.2"}

    def test_installed_version(self):
        """Another app's version is `app_version`, by either name, found among the installed packages."""
        for name in ("atopile_version", "app_version"):
            facts = run_properties([name], cwd=None, app="pytest", time_limit=PLENTY)
            assert facts == {"app_version": pytest.__version__}

    @pytest.mark.parametrize("app", ["no-such-package-anywhere", "", "../../etc"])
    def test_version_of_nothing(self, app):
        """An app that is not installed has no version."""
        assert run_properties(["app_version"], cwd=None, app=app, time_limit=PLENTY) == {"app_version": None}


class TestEnvironment:
    @pytest.mark.parametrize(
        ("variables", "provider"),
        [
            (["GITHUB_ACTIONS"], "GitHub Actions"),
            (["TF_BUILD"], "Azure Pipelines"),
            (["CIRCLECI"], "Circle CI"),
            (["TRAVIS"], "Travis CI"),
            (["BUILDKITE"], "Buildkite"),
            (["CIRRUS_CI"], "Cirrus CI"),
            (["GITLAB_CI"], "GitLab CI"),
            (["TEAMCITY_VERSION"], "TeamCity"),
            (["CODEBUILD_BUILD_ID"], "CodeBuild"),
            (["HEROKU_TEST_RUN_ID"], "Heroku CI"),
            (["bamboo.buildKey"], "Bamboo"),
            (["BUILD_ID"], "Jenkins"),
            (["CI"], "Other"),
            (["CI", "GITHUB_ACTIONS"], "GitHub Actions"),
            (["CI", "BUILD_ID", "TEAMCITY_VERSION"], "TeamCity"),
            ([], None),
        ],
    )
    def test_ci_provider(self, variables, provider):
        """Each continuous integration service has its name; the more particular sign wins."""
        environ = dict.fromkeys(variables, "true")
        assert run_properties(["ci_provider"], cwd=None, environ=environ) == {"ci_provider": provider}

    def test_empty_variables(self):
        """A variable that is set to nothing is no sign of anything."""
        environ = {"GITHUB_ACTIONS": "", "CI": "", "ATO_VIA_DOCKER": ""}
        facts = run_properties(["ci_provider", "via_docker"], cwd=None, environ=environ)
        assert facts == {"ci_provider": None, "via_docker": False}

    def test_via_docker(self):
        """`ATO_VIA_DOCKER` says whether this is the Docker image."""
        assert run_properties(["via_docker"], cwd=None, environ={"ATO_VIA_DOCKER": "1"}) == {"via_docker": True}

    def test_via_vsce(self):
        """`ATO_VSCE_PID` says whether the extension for VS Code started the run."""
        assert run_properties(["via_vsce"], cwd=None, environ={"ATO_VSCE_PID": "7"}) == {"via_vsce": True}
        assert run_properties(["via_vsce"], cwd=None, environ={"ATO_VSCE_PID": ""}) == {"via_vsce": False}

    @pytest.mark.parametrize(
        ("environ", "agent"),
        [
            ({"CLAUDECODE": "1"}, "claude-code"),
            ({"CODEX_SANDBOX": "seatbelt"}, "codex"),
            ({"GEMINI_CLI": "1", "AI_AGENT": "a person's secret"}, "gemini-cli"),
            ({"AGENT": "a person's secret"}, "other"),
            ({"AGENT": ""}, None),
            ({}, None),
        ],
    )
    def test_agent(self, environ, agent):
        """A coding agent that runs the program has a name from a list; no variable's value is sent."""
        assert run_properties(["agent"], cwd=None, environ=environ) == {"agent": agent}

    @pytest.mark.parametrize("name", ["github_action_repository", "github_repository_owner", "github_repository"])
    def test_github(self, name):
        """GitHub's variables are passed on as they are."""
        assert run_properties([name], cwd=None, environ={name.upper(): "acme/widget"}) == {name: "acme/widget"}
        assert run_properties([name], cwd=None, environ={name.upper(): ""}) == {name: ""}
        assert run_properties([name], cwd=None, environ={}) == {name: None}

    def test_values_that_are_no_text(self):
        """A value that is not UTF-8, or absurdly long, becomes one that an event can carry."""
        environ = {"GITHUB_REPOSITORY": "a\udcff", "GITHUB_REPOSITORY_OWNER": "x" * 100_000}
        facts = run_properties(["github_repository", "github_repository_owner"], cwd=None, environ=environ)
        assert facts == {"github_repository": "a?", "github_repository_owner": "x" * 1000}

    def test_own_environment(self, monkeypatch):
        """Without an environment this process's own is asked."""
        monkeypatch.setenv("GITHUB_REPOSITORY", "acme/widget")
        assert run_properties(["github_repository"], cwd=None) == {"github_repository": "acme/widget"}
