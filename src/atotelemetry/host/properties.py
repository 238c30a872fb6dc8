"""atopile's names for the facts about a run, for a host that puts them on events itself.

Runs in the host, on the thread that asks; git's facts take a second at the most. A host that uses `PropertyLoaders` or
`TelemetryProperties` pays for them in its own time. Everybody else leaves the work to the sender. `ThinProperties` cost
nothing.
"""

from __future__ import annotations

import os
import time

from atotelemetry.facts.run import run_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeAlias

    Text: TypeAlias = staticmethod[[], str | None]

__all__ = ["PropertyLoaders", "TelemetryProperties", "ThinProperties"]

LOADER_TIME_LIMIT = 1.0
"""How long a loader may take. A person may be sitting in front of it."""

# By name. `setdefault` is atomic, so threads that ask at once get one answer. No lock: one held by another thread
# during a fork would never be released in the child.
_facts: dict[str, Any] = {}


def _fact(name: str) -> Any:
    """Return a property of this process's run, worked out at the first call. Never raises."""
    if name not in _facts:
        from atotelemetry.facts import git, run  # only hosts that ask for these

        packages = {"atopile_version", "install_method"}
        others = set(run.KNOWN_PROPERTIES) - git.FACTS - packages
        group = next(group for group in (git.FACTS, packages, others) if name in group)
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = None  # deleted under us
        found = run.run_properties(group, cwd=cwd, time_limit=LOADER_TIME_LIMIT)
        for key in group:
            _facts.setdefault(key, found.get(key))
    return _facts[name]


def _loader(name: str, meaning: str) -> Any:
    def load() -> Any:
        return _fact(name)

    load.__name__, load.__qualname__, load.__doc__ = name, f"PropertyLoaders.{name}", f"Return {meaning}."
    return staticmethod(load)


class PropertyLoaders:
    """The properties of a run, one function each.

    Each is worked out once, at the first call, from this process's directory and environment. The four of git come
    together, within a second. None means not known. Never raise, never print.
    """

    email: Text = _loader("email", "git's `user.email`")
    current_git_hash: Text = _loader("current_git_hash", "the commit checked out in the working directory")
    project: Text = _loader("project", "the normalised URL of the remote `origin`: `github.com/acme/widget`")
    project_id: Text = _loader("project_id", "the SHA-256 of `project`")
    ci_provider: Text = _loader("ci_provider", "the name of the continuous integration service that this runs in")
    platform: staticmethod[[], str] = _loader("platform", "`sys.platform`")
    via_docker: staticmethod[[], bool] = _loader("via_docker", "whether this runs in the app's Docker image")

    @staticmethod
    def via_vsce() -> bool:
        """Return whether the extension for VS Code started this (`ATO_VSCE_PID`), as the environment is now."""
        return bool(os.environ.get("ATO_VSCE_PID"))

    @staticmethod
    def install_method() -> str:
        """Return how atopile was installed: "pip", "uv-tool", "dev" and others (see `facts/installed.py`)."""
        return _fact("install_method") or "unknown"

    github_action_repository: Text = _loader("github_action_repository", "`GITHUB_ACTION_REPOSITORY`")
    github_repository_owner: Text = _loader("github_repository_owner", "`GITHUB_REPOSITORY_OWNER`")
    github_repository: Text = _loader("github_repository", "`GITHUB_REPOSITORY`: its owner and name")

    @staticmethod
    def run_id() -> str:
        """Return the random UUID that this process's events carry as `run_id`; the same in forked processes."""
        return run_id()


class ThinProperties:
    """The properties that only the capturing thread knows, kept until somebody asks for the rest.

    Arguments:
        run_id: the run; by default this process's.
        start_time: a time of `time.perf_counter`; by default now.
        extra: the event's own properties.

    """

    __slots__ = ("extra", "run_id", "start_time")

    def __init__(
        self, run_id: str | None = None, start_time: float | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.run_id = PropertyLoaders.run_id() if run_id is None else run_id
        self.start_time = time.perf_counter() if start_time is None else start_time
        self.extra = extra

    def dump(self) -> dict[str, Any]:
        """Return the properties of an event that happens now: `run_id`, `duration` and `extra`, which wins."""
        return {"run_id": self.run_id, "duration": time.perf_counter() - self.start_time, **(self.extra or {})}

    def __repr__(self) -> str:
        return f"ThinProperties(run_id={self.run_id!r}, start_time={self.start_time!r}, extra={self.extra!r})"


# In the order in which they go onto an event. `duration` is None until it is measured.
_PROPERTIES: dict[str, Callable[[], Any]] = {
    "duration": lambda: None,
    "run_id": PropertyLoaders.run_id,
    **{name: getattr(PropertyLoaders, name) for name in vars(PropertyLoaders) if not name.startswith("_")},
    "atopile_version": lambda: _fact("atopile_version"),
}
# `prepare` is older than these.
_NOT_PREPARED = frozenset({"project", "platform", "via_vsce", "install_method"})


class TelemetryProperties:
    """All properties of one measured stretch of a run, as atopile's class of this name has them.

    Arguments:
        thin: the beginning of the stretch, and the event's own properties, which win in `dump`.
        values: any attribute, by keyword. Those not given come from `PropertyLoaders`.

    Raises only TypeError, for a keyword that is no attribute.

    """

    __slots__ = (*_PROPERTIES, "_extra", "_start_time")

    duration: float | None
    run_id: str
    email: str | None
    current_git_hash: str | None
    project: str | None
    project_id: str | None
    ci_provider: str | None
    platform: str
    via_docker: bool
    via_vsce: bool
    install_method: str
    github_action_repository: str | None
    github_repository_owner: str | None
    github_repository: str | None
    atopile_version: str | None

    def __init__(self, thin: ThinProperties | None = None, **values: Any) -> None:
        self._start_time = time.perf_counter() if thin is None else thin.start_time
        self._extra = {} if thin is None else dict(thin.extra or {})
        for name in values:
            if name not in _PROPERTIES:
                raise TypeError(f"TelemetryProperties has no property {name!r}")
        if thin is not None:
            values = {"run_id": thin.run_id, "duration": time.perf_counter() - thin.start_time, **values}
        for name, load in _PROPERTIES.items():
            setattr(self, name, values[name] if name in values else load())

    def dump(self) -> dict[str, Any]:
        """Return every property, and those of the event's own, which win."""
        return {**{name: getattr(self, name) for name in _PROPERTIES}, **self._extra}

    def prepare(self, properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the properties for an event that happens now, without the four that came after this method.

        Arguments:
            properties: the caller's, which win over these of the same name.

        Sets `duration` to the seconds since this object was made, or since `thin.start_time`.

        """
        self.duration = time.perf_counter() - self._start_time
        known = {name: getattr(self, name) for name in _PROPERTIES if name not in _NOT_PREPARED}
        return {**known, **(properties or {})}
