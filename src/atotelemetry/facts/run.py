"""Facts about the library, the machine and the run, worked out where they cost the CLI nothing.

Runs in the sender, on whichever thread asks; `run_properties` does its slow part on a daemon thread of its own. That
thread may hang for good (a repository on a dead network drive), so the caller waits for a fixed time, kills the `git`
processes that are left, and takes the facts that are ready. Hosts import this module for its names: it loads nothing
that costs milliseconds before it is called.
"""

from __future__ import annotations

import os
import sys
import time

from atotelemetry.facts.text import bounded
from atotelemetry.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Iterable, Mapping

    from atotelemetry.facts.git import Children

__all__ = ["ENVIRONMENT_FACTS", "RUN_PROPERTIES", "library_properties", "run_properties"]

RUN_PROPERTIES: tuple[str, ...] = (
    "email",
    "current_git_hash",
    "project_id",
    "ci_provider",
    "via_docker",
    "github_action_repository",
    "github_repository_owner",
    "github_repository",
    "atopile_version",
)
"""Every property of a run that the sender can work out, by its name on the event."""

RUN_TIME_LIMIT = 3.0
"""What `run_properties` takes at the most, unless told otherwise. The sender gives it less before a short deadline."""

# Time kept back at the end of the limit, for a killed git to be collected and for what the other one said.
_GRACE = 0.1

_VERSION_NAMES = frozenset({"atopile_version", "app_version"})

ENVIRONMENT_FACTS = {
    "github_action_repository": "GITHUB_ACTION_REPOSITORY",
    "github_repository_owner": "GITHUB_REPOSITORY_OWNER",
    "github_repository": "GITHUB_REPOSITORY",
}

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


# --- the library and the machine


def library_properties() -> dict[str, object]:
    """Return `$lib`, `$lib_version` and what PostHog's Python SDK says about interpreter and operating system.

    Names and meanings are those of `posthog.utils.system_context`, so that a dashboard made for the SDK still works.
    `$geoip_disable` is True as the SDK sends it; `$is_server` is left out, as it is by an SDK configured for a CLI
    (`is_server=False`). Never raises.
    """
    import platform  # milliseconds to import; httpx has loaded it by the time that this matters

    properties: dict[str, object] = {
        "$lib": "atotelemetry",
        "$lib_version": __version__,
        "$geoip_disable": True,
        "$python_runtime": platform.python_implementation(),
        "$python_version": ".".join(map(str, sys.version_info[:3])),
    }
    try:
        name, version, distribution = _operating_system()
    except Exception:
        # `platform` asks files, the registry or WMI; whatever they answer, the events go.
        name, version, distribution = sys.platform, "", ""
    properties["$os"] = name
    properties["$os_version"] = version
    if distribution:
        properties["$os_distro"] = distribution
    return properties


def _operating_system() -> tuple[str, str, str]:
    """Return name, version and distribution; empty texts where they are not known."""
    import platform  # as above

    system: str = sys.platform
    if system.startswith("win"):
        return "Windows", platform.win32_ver()[0], ""
    if system == "darwin":
        return "Mac OS X", platform.mac_ver()[0], ""
    if system.startswith("linux"):
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            return "Linux", "", ""
        return "Linux", bounded(release.get("VERSION_ID", "")), bounded(release.get("NAME", ""))
    return ("FreeBSD" if system.startswith("freebsd") else system), platform.release(), ""


# --- the run


def run_properties(
    names: Iterable[str],
    *,
    cwd: str | None,
    app: str = "atopile",
    app_version: str | None = None,
    environ: Mapping[str, str] | None = None,
    time_limit: float = RUN_TIME_LIMIT,
) -> dict[str, object]:
    """Work out those properties of the run that `names` asks for.

    Arguments:
        names: any of `RUN_PROPERTIES`; other names are ignored.
        cwd: the host's working directory, absolute; None: there is none, and nothing is asked of git.
        app: the distribution that `atopile_version` is about; for any app but atopile the property is `app_version`.
        app_version: its version where the host knows it; None: looked up among the installed packages.
        environ: the host's environment; None: this process's, which is the same in a sender.
        time_limit: seconds after which this returns with what is known by then, even if git or a drive hangs.

    Returns every property asked for, with None where it is not known. Never raises.

    `email` is git's `user.email` as it holds in `cwd`, inside a repository or not. `project_id` is the SHA-256 of
    `normalise_remote` of the remote `origin`.

    """
    deadline = time.monotonic() + time_limit
    version_name = "atopile_version" if app == "atopile" else "app_version"
    known = [version_name if name in _VERSION_NAMES else name for name in RUN_PROPERTIES]
    wanted = {version_name if name in _VERSION_NAMES else name for name in names}.intersection(known)
    if environ is None:
        environ = os.environ

    found: dict[str, object] = {
        "ci_provider": next((provider for variable, provider in _CI_PROVIDERS if environ.get(variable)), None),
        "via_docker": bool(environ.get("ATO_VIA_DOCKER")),
    }
    for name, variable in ENVIRONMENT_FACTS.items():
        value = environ.get(variable)
        found[name] = None if value is None else bounded(value)
    if app_version is not None:
        found[version_name] = bounded(app_version)

    slow = wanted.difference(found)
    if slow:
        from atotelemetry.facts import git  # a run whose list is cut to the environment does without

        if not cwd or not os.path.isabs(cwd):
            slow -= git.FACTS
        if slow:
            found.update(_Search(slow, cwd or "", app, environ, git.Children()).run(deadline))
    return {name: found.get(name) for name in known if name in wanted}


class _Search:
    """The part that may hang: git, and the look through the installed packages.

    One worker thread adds to `found`; the thread that waits only reads it.
    """

    __slots__ = ("app", "children", "cwd", "done", "environ", "found", "wanted")

    done: threading.Event

    def __init__(
        self, wanted: Collection[str], cwd: str, app: str, environ: Mapping[str, str], children: Children
    ) -> None:
        self.wanted = wanted
        self.cwd = cwd
        self.app = app
        self.environ = environ
        self.found: dict[str, object] = {}
        self.children = children

    def run(self, deadline: float) -> dict[str, object]:
        """Return the facts known by `deadline`, a time of `time.monotonic`. Never raises."""
        import threading  # milliseconds that a run whose list is cut to the environment does not pay

        self.done = threading.Event()
        time_left = deadline - time.monotonic()
        grace = min(_GRACE, time_left / 4)
        if time_left > 0:
            try:
                # A daemon: a `stat` on a dead drive never returns, and nobody may wait for it at exit.
                threading.Thread(target=self._work, name="atotelemetry-facts", daemon=True).start()
            except RuntimeError:
                # No thread to be had. Without one nothing bounds the search, so the events go without its facts.
                return {}
            if not self.done.wait(time_left - grace):
                self.children.expire()
                self.done.wait(deadline - time.monotonic())
        return dict(self.found)

    def _work(self) -> None:
        from atotelemetry.facts import git  # as above

        try:
            for name in _VERSION_NAMES.intersection(self.wanted):
                self.found[name] = _installed_version(self.app)
            answers = git.facts(self.wanted, cwd=self.cwd, environ=self.environ, children=self.children)
            for name, value in answers:
                self.found[name] = value
        except Exception:
            # A fact less; and an exception that leaves a thread would be printed, in a host to its stderr.
            pass
        finally:
            self.done.set()


def _installed_version(package: str) -> str | None:
    import importlib.metadata  # ten milliseconds: only when the host did not say its version

    try:
        return bounded(importlib.metadata.version(package))
    except Exception:
        # Not installed (a source tree, a frozen application), or with metadata that cannot be read.
        return None
