"""What an event says about the library, the machine and the run, worked out where it costs the CLI nothing.

Runs in the sender, on whichever thread asks; `run_properties` does its slow part on a daemon thread of its own. That
thread may hang for good (a repository on a dead network drive), so the caller waits for a fixed time, kills the `git`
processes that are left, and takes what is ready. Git's own files are never read here: only `git` knows worktrees,
submodules and includes. It is asked with two built-in commands that run nothing a repository's configuration names.

`PropertyLoaders` and `TelemetryProperties` offer the same facts to a host that wants them in its own process; importing
this module is therefore as cheap as the host's modules are.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    import threading
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any

__all__ = [
    "RUN_PROPERTIES",
    "PropertyLoaders",
    "TelemetryProperties",
    "library_properties",
    "normalise_remote",
    "run_properties",
]

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

LOADER_TIME_LIMIT = 1.0
"""The longest that a host waits which asks `PropertyLoaders` itself: a person may be sitting in front of it."""

# Time kept back at the end of the limit, for a killed git to be collected and for what the other one said.
_GRACE = 0.1

# What git may say, and what one text on an event may hold; a configuration file can hold anything.
_OUTPUT_LIMIT_BYTES = 64 * 1024
_TEXT_LIMIT = 1000

_CONFIG_FACTS = frozenset({"email", "project_id"})
_GIT_FACTS = _CONFIG_FACTS | {"current_git_hash"}
_VERSION_NAMES = frozenset({"atopile_version", "app_version"})

_ENVIRONMENT_FACTS = {
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

    from atotelemetry import __version__  # in the package itself: importlib.metadata would cost ten times as much

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
        return "Linux", _text(release.get("VERSION_ID", "")), _text(release.get("NAME", ""))
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
    for name, variable in _ENVIRONMENT_FACTS.items():
        value = environ.get(variable)
        found[name] = None if value is None else _text(value)
    if app_version is not None:
        found[version_name] = _text(app_version)

    slow = wanted.difference(found)
    if not cwd or not os.path.isabs(cwd):
        slow -= _GIT_FACTS
    if slow:
        found.update(_Search(slow, cwd or "", app, environ).run(deadline))
    return {name: found.get(name) for name in known if name in wanted}


class _Search:
    """The part that may hang: git, and the look through the installed packages.

    One worker thread adds to `found`; the thread that waits only reads it. The rule that lets no git outlive the limit
    without a lock between the two: the worker lists a child and then looks at `expired`, the waiting thread sets
    `expired` and then goes through the list, so one of them sees it.
    """

    __slots__ = ("app", "children", "cwd", "done", "environ", "expired", "found", "wanted")

    done: threading.Event
    expired: threading.Event

    def __init__(self, wanted: Collection[str], cwd: str, app: str, environ: Mapping[str, str]) -> None:
        self.wanted = wanted
        self.cwd = cwd
        self.app = app
        self.environ = environ
        self.found: dict[str, object] = {}
        self.children: list[subprocess.Popen[bytes]] = []

    def run(self, deadline: float) -> dict[str, object]:
        """Return what was found by `deadline`, a time of `time.monotonic`. Never raises."""
        import threading  # milliseconds that a run whose list is cut to the environment does not pay

        self.done = threading.Event()
        self.expired = threading.Event()
        time_left = deadline - time.monotonic()
        grace = min(_GRACE, time_left / 4)
        if time_left > 0:
            try:
                # A daemon: a `stat` on a dead drive never returns, and nobody may wait for it at exit.
                threading.Thread(target=self._work, name="atotelemetry-enrich", daemon=True).start()
            except RuntimeError:
                # No thread to be had. Without one nothing bounds the search, so the events go without its facts.
                return {}
            if not self.done.wait(time_left - grace):
                self.expired.set()
                for child in tuple(self.children):
                    _kill(child)
                self.done.wait(deadline - time.monotonic())
        return dict(self.found)

    def _work(self) -> None:
        try:
            config = head = None
            git = None if _GIT_FACTS.isdisjoint(self.wanted) else _find_git(self.environ, self.cwd)
            if git is not None:
                # Both are started before either is read, so that they run side by side.
                if not _CONFIG_FACTS.isdisjoint(self.wanted):
                    config = self._start(git, "config", "--null", "--get-regexp", _CONFIG_KEYS)
                if "current_git_hash" in self.wanted:
                    head = self._start(git, "rev-parse", "--verify", "--quiet", "HEAD")
            for name in _VERSION_NAMES.intersection(self.wanted):
                self.found[name] = _installed_version(self.app)
            if config is not None:
                self.found.update(_facts_of_config(_output_of(config)))
            if head is not None:
                self.found["current_git_hash"] = _object_name(_output_of(head))
        except Exception:
            # A fact less; and an exception that leaves a thread would be printed, in a host to its stderr.
            pass
        finally:
            self.done.set()

    def _start(self, git: str, *arguments: str) -> subprocess.Popen[bytes] | None:
        """Start git in the host's working directory; None if it cannot be started or time is up."""
        import subprocess  # milliseconds to import, and often there is no git to run

        if self.expired.is_set():
            return None
        # git changes into the directory itself (`-C`) instead of `Popen(cwd=…)`: the child of a vfork would do it
        # before exec, and the first releases of Python 3.11 hold the GIL until then (gh-104372). On a dead network
        # drive that would stop every thread for ever, watchdog included.
        options = ["--no-pager", "-C", self.cwd, "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
        try:
            child = subprocess.Popen(
                [git, *options, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_git_environment(self.environ),
                process_group=0,  # a group of its own, so that killing it takes along what it started
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows: no console flashes up
            )
        except (OSError, ValueError):
            # Not executable after all, no process to be had, or a directory no system could name (a NUL in it).
            return None
        self.children.append(child)
        if self.expired.is_set():
            _kill(child)
        return child


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a git and whatever it started. Never raises, never waits."""
    if child.poll() is not None:
        return
    try:
        if sys.platform == "win32":
            child.kill()
        else:
            import signal  # loaded with subprocess already, else milliseconds

            os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        # It ended in between.
        return


def _output_of(child: subprocess.Popen[bytes]) -> str:
    """Return what a git printed, empty if it failed, was killed or said too much. Waits for its end."""
    stream = child.stdout
    if stream is None:  # never: it was started with a pipe, which the type checker cannot know
        return ""
    with stream:
        output = stream.read(_OUTPUT_LIMIT_BYTES + 1)
    if child.wait() != 0 or len(output) > _OUTPUT_LIMIT_BYTES:
        return ""
    return output.decode("utf-8", "replace")


def _installed_version(package: str) -> str | None:
    import importlib.metadata  # ten milliseconds: only when the host did not say its version

    try:
        return _text(importlib.metadata.version(package))
    except Exception:
        # Not installed (a source tree, a frozen application), or with metadata that cannot be read.
        return None


def _text(value: str) -> str:
    """Return a text that JSON can carry: bytes that were not UTF-8 replaced, and not longer than a fact can be."""
    return value[:_TEXT_LIMIT].encode("utf-8", "replace").decode("utf-8")


# --- git

# Keys as git prints them: section and variable in lower case, the part between as it was written.
_CONFIG_KEYS = r"^(user\.email|remote\.origin\.url|url\..*\.insteadof)$"

# On a Mac without developer tools the shim at /usr/bin/git opens an installation dialogue. It stands for one of these.
_MAC_SHIM = "/usr/bin/git"
_MAC_GITS = (
    "/Library/Developer/CommandLineTools/usr/bin/git",
    "/Applications/Xcode.app/Contents/Developer/usr/bin/git",
)


def _find_git(environ: Mapping[str, str], cwd: str) -> str | None:
    """Return the path of `git`, or None.

    As `shutil.which`, but only from absolute entries of PATH other than the host's working directory, where anybody's
    project could have put a program of that name; Windows would look there first.
    """
    program = "git.exe" if os.name == "nt" else "git"  # not git.cmd: that one would be run by a shell
    here = os.path.realpath(cwd)
    for entry in environ.get("PATH", "").split(os.pathsep):
        folder = entry.strip('"')
        if not os.path.isabs(folder) or os.path.realpath(folder) == here:
            continue
        path = os.path.join(folder, program)
        candidates = _MAC_GITS if sys.platform == "darwin" and path == _MAC_SHIM else (path,)
        for candidate in candidates:
            if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
                return candidate
    return None


def _git_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for git: the host's (GIT_DIR in a hook stays), but silent and without side effects."""
    kept = {
        name: value
        for name, value in environ.items()
        # Traces and redirections would write our two commands into files of the person's (see below for those that
        # git's configuration asks for); GIT_CONFIG would make `git config` read another file than git itself does.
        if not name.upper().startswith(("GIT_TRACE", "GIT_REDIRECT_")) and name.upper() != "GIT_CONFIG"
    }
    return {
        **kept,
        "GIT_TRACE2": "0",
        "GIT_TRACE2_EVENT": "0",
        "GIT_TRACE2_PERF": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_PAGER": "cat",
        # Neither command needs an object or a network; should one ever, it fails instead of fetching: a remote helper
        # and the ssh command come from the repository's configuration.
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
    }


def _object_name(output: str) -> str | None:
    """Return the commit that git printed, SHA-1 or SHA-256; None for anything else."""
    name = output.strip()
    is_name = len(name) in (40, 64) and all(letter in "0123456789abcdef" for letter in name)
    return name if is_name else None


def _facts_of_config(output: str) -> dict[str, object]:
    """Return `email` and `project_id` from `git config --null --get-regexp`: records `key LF value NUL`."""
    email = None
    urls: list[str] = []
    rewrites: list[tuple[str, str]] = []
    for record in output.split("\0"):
        key, _, value = record.partition("\n")
        if key == "user.email":
            email = value.strip()  # the nearest file comes last and wins
        elif key == "remote.origin.url":
            urls.append(value)  # the first is the one that git fetches from
        elif value and key.startswith("url."):
            rewrites.append((value, key.removeprefix("url.").removesuffix(".insteadof")))

    project = None
    if urls:
        url = urls[0]
        # git applies the longest prefix (`url.<base>.insteadOf`); without it "gh:acme/widget" would be another project.
        prefix, base = max(
            (rewrite for rewrite in rewrites if url.startswith(rewrite[0])), key=lambda it: len(it[0]), default=("", "")
        )
        project = normalise_remote(base + url[len(prefix) :])
    return {"email": _text(email) if email else None, "project_id": None if project is None else _sha256(project)}


def _sha256(text: str) -> str:
    import hashlib  # milliseconds, for those who have a project

    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


# Where a host follows the double slash. Not `file`: a path on somebody's disk says who they are, not which project.
_NETWORK_SCHEMES = frozenset(
    {"ssh", "git", "http", "https", "ftp", "ftps", "git+ssh", "ssh+git", "git+http", "git+https"},
)


def normalise_remote(url: str) -> str | None:
    """Return `host/path` of a remote repository, the same for each way to write it: `github.com/acme/widget`.

    The host in lower case; no scheme, user, password, port, query, leading or trailing slash, nor the `.git` at the
    end. None for what names no place on a network: local paths, `file:`, remote helpers (`ext::…`), malformed
    addresses. The forms are those of the "GIT URLS" section of git's manual. Never raises.
    """
    url = url.strip()
    scheme, is_url, rest = url.partition("://")
    if is_url:
        if scheme.lower() not in _NETWORK_SCHEMES:
            return None
        authority, _, path = rest.partition("/")
        path = path.partition("?")[0].partition("#")[0]
        host = _host(authority.rpartition("@")[2])
    else:
        authority, path = _split_scp(url)
        host = _host(authority)

    path = "/".join(segment for segment in path.split("/") if segment)
    path = path.removesuffix(".git").rstrip("/")
    return f"{host}/{path}" if host and path else None


def _split_scp(address: str) -> tuple[str, str]:
    """Split `[user@]host:path` into host and path, without the user; two empty texts if it is not of that form."""
    nothing = ("", "")
    if "]:" in address:
        # Brackets hold an IPv6 address, or host and port: `git@[::1]:path`, `[git@host:2222]:path`.
        front, _, path = address.partition("]:")
        user, _, host = front.partition("[")
        if user and not user.endswith("@"):
            return nothing
        host = host.rpartition("@")[2]
        return (f"[{host}]" if host.count(":") > 1 else host), path
    front, colon, path = address.partition(":")
    # A slash before the colon is a local path, one letter a Windows drive, a second colon a remote helper.
    if not colon or "/" in front or "\\" in front or len(front) == 1 or path.startswith(":"):
        return nothing
    user, _, host = front.rpartition("@")
    if not user and "@" in path.partition("/")[0]:
        # `user:password@host:path` is not an address to git, but a password must not get into the project either.
        return nothing
    return host, path


def _host(text: str) -> str | None:
    """Return the host of `host[:port]` in lower case; None if it is malformed."""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket or not address or any(c not in "0123456789abcdefABCDEF:." for c in address):
            return None
        if port and not port.startswith(":"):
            return None
        host, port = f"[{address.lower()}]", port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
        host = host.lower().rstrip(".")
        if not all(c.isalnum() or c in "-._" for c in host):
            return None
    if port and not port.isdigit():
        return None
    return host


# --- the same facts for a host that wants them itself

# What is worked out together, as the first of a group is asked for.
_LOADER_GROUPS = (
    _GIT_FACTS,
    frozenset({"atopile_version"}),
    frozenset({"ci_provider", "via_docker", *_ENVIRONMENT_FACTS}),
)

# By name; filled with `setdefault`, which is atomic, so that threads that ask at once get one answer. No lock: one held
# by another thread during a fork would never be released in the child.
_facts: dict[str, Any] = {}


def _fact(name: str) -> Any:
    """Return a property of this process's run, worked out at the first call. Never raises."""
    if name not in _facts:
        group = next(group for group in _LOADER_GROUPS if name in group)
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = None  # deleted under us
        for key, value in run_properties(group, cwd=cwd, time_limit=LOADER_TIME_LIMIT).items():
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
        import atotelemetry  # the one place that host/telemetry.py, which uses the same name in it, can be met in

        if "_run_id" not in vars(atotelemetry):
            import uuid  # milliseconds to import

            vars(atotelemetry).setdefault("_run_id", str(uuid.uuid4()))
        value: str = vars(atotelemetry)["_run_id"]
        return value


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
