"""`PropertyLoaders` and `TelemetryProperties`: the facts about a run for a host that puts them on events itself.

Runs in the host, on the thread that asks; git's facts take a second at the most. A host that uses these names pays
for them in its own time. Everybody else leaves the work to the sender.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["PropertyLoaders", "TelemetryProperties"]

LOADER_TIME_LIMIT = 1.0
"""How long a loader may take. A person may be sitting in front of it."""

# By name; filled with `setdefault`, which is atomic, so that threads that ask at once get one answer. No lock: one held
# by another thread during a fork would never be released in the child.
_facts: dict[str, Any] = {}


def _fact(name: str) -> Any:
    """Return a property of this process's run, worked out at the first call. Never raises."""
    if name not in _facts:
        from atotelemetry.facts import git, run  # only hosts that ask for these

        others = set(run.RUN_PROPERTIES) - git.FACTS - {"atopile_version"}
        group = next(group for group in (git.FACTS, {"atopile_version"}, others) if name in group)
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = None  # deleted under us
        for key, value in run.run_properties(group, cwd=cwd, time_limit=LOADER_TIME_LIMIT).items():
            _facts.setdefault(key, value)
    return _facts[name]


class PropertyLoaders:
    """The properties of a run, one function each, for a host that puts them on events itself.

    Each is worked out once, at the first call, from the working directory and the environment of this process; the
    three of git together, in a second at the most. None means not known. Never raise, never print.
    """

    @staticmethod
    def email() -> str | None:
        """Return git's `user.email`."""
        value: str | None = _fact("email")
        return value

    @staticmethod
    def current_git_hash() -> str | None:
        """Return the commit that is checked out in the working directory."""
        value: str | None = _fact("current_git_hash")
        return value

    @staticmethod
    def project_id() -> str | None:
        """Return the SHA-256 of the normalised URL of the remote `origin`."""
        value: str | None = _fact("project_id")
        return value

    @staticmethod
    def ci_provider() -> str | None:
        """Return the name of the continuous integration service that this runs in."""
        value: str | None = _fact("ci_provider")
        return value

    @staticmethod
    def via_docker() -> bool:
        """Return whether this runs in the app's own Docker image (`ATO_VIA_DOCKER`)."""
        value: bool = _fact("via_docker")
        return value

    @staticmethod
    def github_action_repository() -> str | None:
        """Return `GITHUB_ACTION_REPOSITORY`: owner and repository of the action that runs."""
        value: str | None = _fact("github_action_repository")
        return value

    @staticmethod
    def github_repository_owner() -> str | None:
        """Return `GITHUB_REPOSITORY_OWNER`."""
        value: str | None = _fact("github_repository_owner")
        return value

    @staticmethod
    def github_repository() -> str | None:
        """Return `GITHUB_REPOSITORY`: owner and repository that the workflow runs for."""
        value: str | None = _fact("github_repository")
        return value

    @staticmethod
    def run_id() -> str:
        """Return the random UUID that this process's events carry as `run_id`; the same in what it forks."""
        from atotelemetry.host import telemetry  # hosts that never ask do not pay for it

        return telemetry.run_id()


def _default_properties() -> dict[str, Any]:
    """Return the loader of each attribute of `TelemetryProperties`, in the order in which they go onto an event."""
    return {
        "duration": lambda: None,
        "email": PropertyLoaders.email,
        "current_git_hash": PropertyLoaders.current_git_hash,
        "project_id": PropertyLoaders.project_id,
        "ci_provider": PropertyLoaders.ci_provider,
        "via_docker": PropertyLoaders.via_docker,
        "github_action_repository": PropertyLoaders.github_action_repository,
        "github_repository_owner": PropertyLoaders.github_repository_owner,
        "github_repository": PropertyLoaders.github_repository,
        "run_id": PropertyLoaders.run_id,
        "atopile_version": lambda: _fact("atopile_version"),
    }


class TelemetryProperties:
    """All properties of one measured stretch of a run, as atopile's class of this name has them.

    Arguments (keywords): any attribute; those not given come from `PropertyLoaders`, `duration` from `prepare`.
    Raises TypeError for a keyword that is no attribute, and nothing else.
    """

    __slots__ = (
        "_start_time",
        "atopile_version",
        "ci_provider",
        "current_git_hash",
        "duration",
        "email",
        "github_action_repository",
        "github_repository",
        "github_repository_owner",
        "project_id",
        "run_id",
        "via_docker",
    )

    duration: float | None
    email: str | None
    current_git_hash: str | None
    project_id: str | None
    ci_provider: str | None
    via_docker: bool
    github_action_repository: str | None
    github_repository_owner: str | None
    github_repository: str | None
    run_id: str
    atopile_version: str | None

    def __init__(self, **values: Any) -> None:
        self._start_time = time.perf_counter()
        loaders = _default_properties()
        for name in values:
            if name not in loaders:
                raise TypeError(f"TelemetryProperties has no property {name!r}")
        for name, load in loaders.items():
            setattr(self, name, values[name] if name in values else load())

    def prepare(self, properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the properties for an event that happens now.

        Arguments:
            properties: the caller's, which win over these of the same name.

        Sets `duration` to the seconds since this object was made.

        """
        self.duration = time.perf_counter() - self._start_time
        return {**{name: getattr(self, name) for name in _default_properties()}, **(properties or {})}
