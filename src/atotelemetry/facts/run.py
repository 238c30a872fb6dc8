"""Facts about the library, the machine and the run, worked out where they cost the CLI nothing.

Runs in the sender, on whichever thread asks; `run_properties` does its slow part on a daemon thread of its own. That
thread may hang for good (a repository on a dead network drive). So the caller waits for a fixed time, kills the
remaining `git` processes, and takes the ready facts. Hosts import this module for its names: it loads nothing that
costs milliseconds before it is called.
"""

from __future__ import annotations

import os
import sys
import time

from atotelemetry.facts.text import bounded
from atotelemetry.ids import uuid4
from atotelemetry.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["KNOWN_PROPERTIES", "RUN_PROPERTIES", "library_properties", "release_properties", "run_id", "run_properties"]

RUN_PROPERTIES: tuple[str, ...] = (
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
)
"""The properties that the sender works out unless the host cuts the list, by their names on the event."""

KNOWN_PROPERTIES: tuple[str, ...] = (*RUN_PROPERTIES, "project")
"""The properties that the sender can work out. A host asks by name for those that are not in `RUN_PROPERTIES`."""

# Kept back at the end of the limit, to reap a killed git and to read the other one's answer.
_GRACE = 0.5

_VERSION_NAMES = frozenset({"atopile_version", "app_version"})

# Left out where they are not known, as atopile does; the others are null then.
_LEFT_OUT = frozenset({"email"})

# Values of the variables of these names, in upper case.
_GITHUB_FACTS = ("github_action_repository", "github_repository_owner", "github_repository")

# The first one set to anything wins, so the general ones (Jenkins' BUILD_ID, then CI) come last.
_CI_PROVIDERS = (
    ("GITHUB_ACTIONS", "GitHub Actions"),
    ("TF_BUILD", "Azure Pipelines"),
    ("CIRCLECI", "Circle CI"),
    ("TRAVIS", "Travis CI"),
    ("BUILDKITE", "Buildkite"),
    ("CIRRUS_CI", "Cirrus CI"),
    ("GITLAB_CI", "GitLab CI"),
    ("TEAMCITY_VERSION", "TeamCity"),
    ("CODEBUILD_BUILD_ID", "CodeBuild"),
    ("HEROKU_TEST_RUN_ID", "Heroku CI"),
    ("bamboo.buildKey", "Bamboo"),
    ("BUILD_ID", "Jenkins"),
    ("CI", "Other"),
)

# Variables that coding agents set for their commands. The name goes onto the event, never a variable's value.
_AGENTS = (
    ("CLAUDECODE", "claude-code"),
    ("CODEX_SANDBOX", "codex"),
    ("CODEX_CI", "codex"),
    ("CODEX_THREAD_ID", "codex"),
    ("GEMINI_CLI", "gemini-cli"),
    ("COPILOT_CLI", "copilot-cli"),
    ("OPENCODE", "opencode"),
    ("AUGMENT_AGENT", "augment"),
    ("CURSOR_AGENT", "cursor"),
    ("CURSOR_TRACE_ID", "cursor"),
    ("GOOSE_PROVIDER", "goose"),
    ("ANTIGRAVITY_AGENT", "antigravity"),
    ("REPL_ID", "replit"),
    ("AI_AGENT", "other"),
    ("AGENT", "other"),
)


# --- the library and the machine


def library_properties() -> dict[str, object]:
    """Return the properties of the library, the interpreter and the operating system. Never raises.

    Names and meanings are those of `posthog.utils.system_context`, so a dashboard made for PostHog's SDK still works.
    `$geoip_disable` is True as in the SDK. `$is_server` is missing, as in an SDK configured for a CLI.
    """
    import platform  # milliseconds, which hosts do not pay

    properties: dict[str, object] = {
        "$lib": "atotelemetry",
        "$lib_version": __version__,
        "$geoip_disable": True,
        "$python_runtime": platform.python_implementation(),
        "$python_version": ".".join(map(str, sys.version_info[:3])),
    }
    try:
        properties.update(_operating_system())
    except Exception:
        # `platform` asks files, the registry or WMI. The events go without their answer.
        properties.update({"$os": sys.platform, "$os_version": ""})
    return properties


def release_properties(app: str, version: object, *, environ: Mapping[str, str] | None = None) -> dict[str, object]:
    """Return PostHog's names for the application's release, in which an issue began.

    `$release_id` comes from POSTHOG_RELEASE_ID, as in PostHog's SDKs: `posthog-cli release resolve` prints it. Unknown
    ones are left out. Never raises.
    """
    environ = os.environ if environ is None else environ
    release = environ.get("POSTHOG_RELEASE_ID", "").strip()
    known = {"$app_namespace": app, "$app_version": version, "$release_id": bounded(release) if release else None}
    return {name: value for name, value in known.items() if value is not None}


def _operating_system() -> dict[str, object]:
    import platform  # as above

    system: str = sys.platform
    if system.startswith("win"):
        return {"$os": "Windows", "$os_version": _windows_release()}
    if system == "darwin":
        return {"$os": "Mac OS X", "$os_version": platform.mac_ver()[0]}
    if system.startswith("linux"):
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            release = {}
        distro = {"$os_distro": bounded(release["NAME"])} if release.get("NAME") else {}
        return {"$os": "Linux", "$os_version": bounded(release.get("VERSION_ID", "")), **distro}
    return {"$os": "FreeBSD" if system.startswith("freebsd") else system, "$os_version": platform.release()}


# Windows' names for its releases, by their first build; only those on which Python 3.11 runs.
_WINDOWS_RELEASES = ((22000, "11"), (10240, "10"), (9600, "8.1"))
_WINDOWS_SERVER_RELEASES = ((26100, "2025Server"), (20348, "2022Server"), (17763, "2019Server"), (14393, "2016Server"))
_WINDOWS_WORKSTATION = 1  # VER_NT_WORKSTATION


def _windows_release() -> str:
    """Return the release as `platform.win32_ver` names it. `win32_ver` asks WMI, which may take seconds."""
    version = sys.getwindowsversion()  # type: ignore[attr-defined,unused-ignore]
    names = _WINDOWS_RELEASES if version.product_type == _WINDOWS_WORKSTATION else _WINDOWS_SERVER_RELEASES
    return next((name for build, name in names if version.platform_version[2] >= build), "")


# --- the run

_run: dict[str, str] = {}


def run_id() -> str:
    """Return the random id of this process's run; processes that it forks have the same."""
    # `setdefault` is atomic, so threads that ask at once get one id. A lock could be held during a fork.
    return _run.get("id") or _run.setdefault("id", uuid4())


def run_properties(
    names: Iterable[str],
    *,
    cwd: str | None,
    app: str = "atopile",
    app_version: str | None = None,
    salt: str = "",
    search_path: Sequence[str] = (),
    is_tty: bool | None = None,
    environ: Mapping[str, str] | None = None,
    time_limit: float = 3.0,
) -> dict[str, object]:
    """Work out properties of the run.

    Arguments:
        names: any of `KNOWN_PROPERTIES`; other names are ignored.
        cwd: the host's working directory, absolute. None asks nothing of git.
        app: the distribution of the program. Its version is `atopile_version` for atopile, else `app_version`.
        app_version: its version, if the host knows it. None looks among the installed packages.
        salt: mixed into the `project_id` of any app but atopile, so that nobody can look it up. Without it the id is
            None.
        search_path: the host's import path, where the metadata of `app` lies; by default this process's.
        is_tty: whether the host writes to a terminal, as it says itself.
        environ: the host's environment; by default this process's, which is the same in a sender.
        time_limit: seconds after which this returns with the facts known by then, even if git or a drive hangs.

    Returns the properties asked for, with None where one is not known; `email` is left out then. Never raises.
    The meaning of git's facts is in `git.facts`, that of `install_method` in `installed.install_method`.

    """
    deadline = time.monotonic() + time_limit
    version_name = "atopile_version" if app == "atopile" else "app_version"
    known = [version_name if name in _VERSION_NAMES else name for name in KNOWN_PROPERTIES]
    wanted = {version_name if name in _VERSION_NAMES else name for name in names}.intersection(known)
    if environ is None:
        environ = os.environ

    found: dict[str, object] = {
        "ci_provider": _first_set(_CI_PROVIDERS, environ),
        "platform": sys.platform,
        "via_docker": bool(environ.get("ATO_VIA_DOCKER")),
        "via_vsce": bool(environ.get("ATO_VSCE_PID")),
        "agent": _first_set(_AGENTS, environ),
        "is_tty": is_tty,
    }
    for name in _GITHUB_FACTS:
        value = environ.get(name.upper())
        found[name] = None if value is None else bounded(value)
    if app_version is not None:
        found[version_name] = bounded(app_version)

    slow = wanted.difference(found)
    if slow:
        from atotelemetry.facts import git  # not needed for a list cut to the environment

        if not cwd or not os.path.isabs(cwd):
            slow -= git.FACTS
        if slow:
            found.update(_search(slow, cwd or "", app, search_path, environ, deadline))
            if app != "atopile" and found.get("project_id"):
                found["project_id"] = git.salted(str(found["project_id"]), salt) if salt else None
    return {
        name: found.get(name)
        for name in known
        if name in wanted and not (name in _LEFT_OUT and found.get(name) is None)
    }


def _first_set(names: Iterable[tuple[str, str]], environ: Mapping[str, str]) -> str | None:
    return next((name for variable, name in names if environ.get(variable)), None)


def _machine() -> str:
    """Return the machine's type, for instance x86_64 or arm64."""
    if sys.platform == "win32":  # where `platform` asks WMI
        environ = os.environ
        return bounded(environ.get("PROCESSOR_ARCHITEW6432") or environ.get("PROCESSOR_ARCHITECTURE") or "")
    import platform  # as in `library_properties`

    return bounded(platform.machine())


def _search(
    wanted: Collection[str],
    cwd: str,
    app: str,
    search_path: Sequence[str],
    environ: Mapping[str, str],
    deadline: float,
) -> dict[str, object]:
    """Return the facts that may hang, as far as they are known by `deadline`. Never raises.

    They are git's, and those of the installed packages. One worker thread adds to `found`; this one only reads it.
    """
    import threading  # milliseconds, which a list cut to the environment does not cost

    from atotelemetry.facts import git, installed  # as above

    found: dict[str, object] = {}
    children, done = git.Children(), threading.Event()

    def work() -> None:
        try:
            # Here, too, because the directories of the installed packages may lie on the same dead drive.
            for name in _VERSION_NAMES.intersection(wanted):
                found[name] = installed.installed_version(app, search_path)
            if "install_method" in wanted:
                found["install_method"] = installed.install_method(app, environ, search_path)
            if "$arch" in wanted:
                found["$arch"] = _machine()
            found.update(git.facts(wanted, cwd=cwd, environ=environ, children=children))  # one after the other
        except Exception:
            # An exception that leaves a thread would be printed, in a host to its stderr.
            pass
        finally:
            done.set()

    time_left = deadline - time.monotonic()
    if time_left > 0:
        try:
            # A daemon: a `stat` on a dead drive never returns, and the exit must not wait for it.
            threading.Thread(target=work, name="atotelemetry-facts", daemon=True).start()
        except RuntimeError:
            # No thread is left. Nothing else bounds the search, so the events go without its facts.
            return {}
        if not done.wait(time_left - min(_GRACE, time_left / 4)):
            children.expire()
            done.wait(deadline - time.monotonic())
    return dict(found)
