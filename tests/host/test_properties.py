"""`host/properties.py`: atopile's names for the facts about a run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid

import pytest

from atotelemetry.facts import run
from atotelemetry.host import properties as module
from atotelemetry.host.properties import PropertyLoaders, TelemetryProperties, ThinProperties
from support_git import EMAIL, PLENTY, WIDGET, posix_only


@pytest.fixture
def fresh_process(monkeypatch):
    """Leave the loaders as in a process that has asked for nothing yet."""
    monkeypatch.setattr(module, "_facts", {})


@pytest.mark.usefixtures("fresh_process")
class TestPropertyLoaders:
    @pytest.fixture
    def here(self, git, repository, monkeypatch):
        """Make this process a host that runs in the repository."""
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            monkeypatch.delenv(name)
        for name, value in git.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(module, "LOADER_TIME_LIMIT", PLENTY)
        monkeypatch.chdir(repository)
        return repository

    def test_own_directory_and_environment(self, here, head, monkeypatch):
        """The loaders tell of this process's working directory and environment."""
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("ATO_VIA_DOCKER", "1")
        for name in ("GITHUB_ACTION_REPOSITORY", "GITHUB_REPOSITORY_OWNER", "GITHUB_REPOSITORY"):
            monkeypatch.setenv(name, name.lower())
        assert PropertyLoaders.email() == EMAIL
        assert PropertyLoaders.current_git_hash() == head
        assert PropertyLoaders.project() == "github.com/acme/widget"
        assert PropertyLoaders.project_id() == WIDGET
        assert PropertyLoaders.platform() == sys.platform
        assert PropertyLoaders.install_method() == "docker"
        assert PropertyLoaders.ci_provider() == "GitHub Actions"
        assert PropertyLoaders.via_docker() is True
        assert PropertyLoaders.github_action_repository() == "github_action_repository"
        assert PropertyLoaders.github_repository_owner() == "github_repository_owner"
        assert PropertyLoaders.github_repository() == "github_repository"

    def test_once(self, here, git, head, monkeypatch):
        """Each is worked out once in a process, None included, and git is run once for all four."""
        git(here, "remote", "remove", "origin")
        assert PropertyLoaders.project_id() is None
        assert PropertyLoaders.via_docker() is False
        monkeypatch.setenv("ATO_VIA_DOCKER", "1")
        monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: pytest.fail("git was run again"))
        assert PropertyLoaders.project_id() is None
        assert PropertyLoaders.via_docker() is False
        assert PropertyLoaders.current_git_hash() == head

    @posix_only
    def test_deleted_directory(self, here, tmp_path, monkeypatch):
        """In a working directory that was deleted nothing is known of git, and nothing is raised."""
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert PropertyLoaders.email() is None
        assert PropertyLoaders.current_git_hash() is None

    def test_run_id(self):
        """The run's id is a random UUID, one for the whole process, from whichever thread it is asked."""
        seen: list[str] = []
        threads = [threading.Thread(target=lambda: seen.append(PropertyLoaders.run_id())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(seen) == {PropertyLoaders.run_id()}
        assert len(seen) == 8
        assert uuid.UUID(seen[0]).version == 4
        assert str(uuid.UUID(seen[0])) == seen[0]

    def test_run_id_race(self, monkeypatch):
        """Where two threads make an id at once, the one that was first counts for both."""
        ids: dict[str, str] = {}
        monkeypatch.setattr(run, "_run", ids)

        def overtaken() -> str:
            ids["id"] = "the other thread's"
            return "mine"

        monkeypatch.setattr(run, "uuid4", overtaken)
        assert PropertyLoaders.run_id() == "the other thread's"

    def test_telemetry_properties(self, here, head, monkeypatch):
        """The properties of a run are what the loaders say, and the time since they were made."""
        github = ("github_action_repository", "github_repository_owner", "github_repository")
        known = {"ci_provider": None, "via_docker": False, "platform": "linux", "install_method": "pip"}
        monkeypatch.setattr(module, "_facts", {**known, **dict.fromkeys(github), "atopile_version": None})
        clock = iter([100.0, 102.5, 103.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
        properties = TelemetryProperties()
        assert properties.duration is None
        first, second = properties.prepare(), properties.prepare({"email": "mine@example.org", "extra": 1})
        assert first == {
            "duration": 2.5,
            "email": EMAIL,
            "current_git_hash": head,
            "project_id": WIDGET,
            "ci_provider": None,
            "via_docker": False,
            "github_action_repository": None,
            "github_repository_owner": None,
            "github_repository": None,
            "run_id": PropertyLoaders.run_id(),
            "atopile_version": None,
        }
        assert second == {**first, "duration": 3.0, "email": "mine@example.org", "extra": 1}
        assert (properties.email, properties.duration) == (EMAIL, 3.0)

    def test_given_values(self, here, monkeypatch):
        """What is given is taken, and nothing is asked of git when all of git's facts are given."""
        monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: pytest.fail("git was run"))
        given = {"email": None, "current_git_hash": "abc", "project_id": "def", "run_id": "1", "atopile_version": "2"}
        given_too = {"project": None, "install_method": "pip"}
        properties = TelemetryProperties(**given, **given_too)
        prepared = properties.prepare()
        assert prepared == {**prepared, **given}

    def test_unknown_keyword(self):
        """A misspelt property is an error of the program, not silence."""
        with pytest.raises(TypeError, match="'emial'"):
            TelemetryProperties(emial="dev@example.org")

    def test_via_vsce_is_that_of_the_moment(self, monkeypatch):
        """A worker process is told by its parent where the build came from, after it has started."""
        monkeypatch.delenv("ATO_VSCE_PID", raising=False)
        before = PropertyLoaders.via_vsce()
        monkeypatch.setenv("ATO_VSCE_PID", "4711")
        assert (before, PropertyLoaders.via_vsce()) == (False, True)


class TestThin:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch):
        """Know every fact already."""
        known = {name: f"the {name}" for name in run.KNOWN_PROPERTIES}
        monkeypatch.setattr(module, "_facts", known)
        monkeypatch.delenv("ATO_VSCE_PID", raising=False)
        return known

    def test_everything_of_today(self, known, monkeypatch):
        """`dump` has the properties of today's atopile in their order, and those of the event, which win."""
        monkeypatch.setattr(time, "perf_counter", lambda: 103.0)
        thin = ThinProperties(run_id="a run", start_time=100.5, extra={"targets": 2, "email": "mine@example.org"})
        dumped = TelemetryProperties(thin=thin).dump()
        assert list(dumped) == [
            *("duration", "run_id", "email", "current_git_hash", "project", "project_id", "ci_provider", "platform"),
            *("via_docker", "via_vsce", "install_method", "github_action_repository", "github_repository_owner"),
            *("github_repository", "atopile_version", "targets"),
        ]
        facts = {name: value for name, value in known.items() if name in dumped}
        own = {"run_id": "a run", "duration": 2.5, "via_vsce": False, "email": "mine@example.org", "targets": 2}
        assert dumped == facts | own

    def test_defaults(self):
        """Thin properties know this process's run and the moment they were made at, and ask for nothing else."""
        before = time.perf_counter()
        thin = ThinProperties()
        assert (thin.run_id, thin.extra) == (PropertyLoaders.run_id(), None)
        assert before <= thin.start_time <= time.perf_counter()
        assert repr(thin) == f"ThinProperties(run_id={thin.run_id!r}, start_time={thin.start_time!r}, extra=None)"

    def test_thin_dump(self, monkeypatch):
        """What only the capturing thread knows, as properties; the event's own win."""
        monkeypatch.setattr(time, "perf_counter", lambda: 103.0)
        assert ThinProperties("a run", 100.5, {"a": 1}).dump() == {"run_id": "a run", "duration": 2.5, "a": 1}
        assert ThinProperties("a run", 100.5, {"duration": 7}).dump() == {"run_id": "a run", "duration": 7}

    def test_the_older_shape(self):
        """Without thin properties nothing is measured before `prepare`, and that one says what it always said."""
        properties = TelemetryProperties()
        assert (properties.dump()["duration"], properties.platform) == (None, "the platform")
        assert {"project", "platform", "via_vsce", "install_method"}.isdisjoint(properties.prepare())
        assert properties.dump()["duration"] > 0
