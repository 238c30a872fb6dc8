"""Git's facts about a directory: the person's e-mail address, the commit, the project.

Leaf; runs on whichever thread asks. Only `git` reads git's files, because only `git` knows worktrees, submodules and
includes. It runs two built-in commands that start nothing a repository's configuration names. A git may hang for good
(a dead network drive). So every child is registered in `Children`, and the waiting thread kills them at its limit.
"""

from __future__ import annotations

import os
import sys

from atotelemetry.facts.text import bounded

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Collection, Iterator, Mapping

__all__ = ["FACTS", "Children", "facts", "normalise_remote"]

_CONFIG_FACTS = frozenset({"email", "project", "project_id"})
FACTS = _CONFIG_FACTS | {"current_git_hash"}
"""Every fact that git knows, by its name on the event."""

# A configuration file may hold any amount of text.
_OUTPUT_LIMIT_BYTES = 64 * 1024


class Children:
    """The running gits, and whether time is up.

    No lock: the worker registers a child, then checks `expired`. The waiter sets `expired`, then kills all children.
    One of them always sees the other.
    """

    __slots__ = ("_running", "expired")

    def __init__(self) -> None:
        self.expired = False
        self._running: list[subprocess.Popen[bytes]] = []

    def add(self, child: subprocess.Popen[bytes]) -> None:
        """Register a child; kill it if time is up."""
        self._running.append(child)
        if self.expired:
            _kill(child)

    def expire(self) -> None:
        """Kill all children, also later ones. Never raises, never waits."""
        self.expired = True
        for child in tuple(self._running):
            _kill(child)


def facts(
    wanted: Collection[str], *, cwd: str, environ: Mapping[str, str], children: Children
) -> Iterator[tuple[str, object]]:
    """Ask git for the wanted `FACTS`; yield each name and value as soon as it is known.

    Other names are ignored. `cwd` is an absolute directory. A step may hang until `children.expire` is called.
    `email` is git's `user.email` as it holds in `cwd`, inside a repository or not. `project` is `normalise_remote` of
    the remote `origin`, `project_id` its SHA-256. Never raises for anything that git, its files or the environment say.
    """
    git = None if FACTS.isdisjoint(wanted) else _find_git(environ, cwd)
    if git is None:
        return

    def start(*arguments: str) -> subprocess.Popen[bytes] | None:
        return _start(git, arguments, cwd, environ, children)

    # Both are started before either is read, so that they run side by side.
    config = head = None
    if not _CONFIG_FACTS.isdisjoint(wanted):
        config = start("config", "--null", "--get-regexp", _CONFIG_KEYS)
    if "current_git_hash" in wanted:
        head = start("rev-parse", "--verify", "--quiet", "HEAD")
    if config is not None:
        yield from _facts_of_config(_output_of(config)).items()
    if head is not None:
        name = _output_of(head).strip()
        is_name = len(name) in (40, 64) and not name.strip("0123456789abcdef")  # SHA-1 or SHA-256
        yield "current_git_hash", name if is_name else None


def _start(
    git: str, arguments: tuple[str, ...], cwd: str, environ: Mapping[str, str], children: Children
) -> subprocess.Popen[bytes] | None:
    """Start git in a directory; None if it cannot be started or time is up."""
    import subprocess  # milliseconds to import, and often there is no git to run

    if children.expired:
        return None
    # `-C` instead of `Popen(cwd=…)`: the child of a vfork would change directory before exec, and early releases of
    # Python 3.11 hold the GIL until then (gh-104372). On a dead network drive that would stop every thread for ever,
    # watchdog included.
    options = ["--no-pager", "-C", cwd, "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    try:
        child = subprocess.Popen(  # noqa: S603 - git, with a list of arguments
            [git, *options, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_git_environment(environ),
            process_group=0,  # a group of its own, so that its children are killed, too
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows: no console flashes up
        )
    except (OSError, ValueError):
        # It cannot be executed, no process is left, or the directory has a NUL in its name.
        return None
    children.add(child)
    return child


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a git and its child processes. Never raises, never waits."""
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
    """Return the output of a git; empty if it failed, was killed or printed too much. Waits for its end."""
    stream = child.stdout
    if stream is None:  # for the type checker: it was started with a pipe
        return ""
    with stream:
        output = stream.read(_OUTPUT_LIMIT_BYTES + 1)
    if child.wait() != 0 or len(output) > _OUTPUT_LIMIT_BYTES:
        return ""
    return output.decode("utf-8", "replace")


# Keys are as git prints them: section and variable in lower case, the part between unchanged.
_CONFIG_KEYS = r"^(user\.email|remote\.origin\.url|url\..*\.insteadof)$"

# On a Mac without developer tools the shim at /usr/bin/git opens an installation dialogue. It stands for one of these.
_MAC_SHIM = "/usr/bin/git"
_MAC_GITS = (
    "/Library/Developer/CommandLineTools/usr/bin/git",
    "/Applications/Xcode.app/Contents/Developer/usr/bin/git",
)


def _find_git(environ: Mapping[str, str], cwd: str) -> str | None:
    """Return the path of `git`, or None.

    As `shutil.which`, but only from absolute entries of PATH, and never from the working directory, where any project
    may have put a program of that name; Windows would look there first.
    """
    program = "git.exe" if os.name == "nt" else "git"  # not git.cmd, which needs a shell
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
    """Return the environment for a silent git without side effects. The host's GIT_DIR (in a hook) stays."""
    kept = {
        name: value
        for name, value in environ.items()
        # Traces and redirections would write our two commands into the person's files. GIT_CONFIG would make
        # `git config` read another file than git itself does. The settings below stop traces by configuration.
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
        # Neither command needs an object or a network. A fetch would fail: the repository's configuration names the
        # remote helper and the ssh command.
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
    }


def _facts_of_config(output: str) -> dict[str, object]:
    """Return `email`, `project` and `project_id` from `git config --null --get-regexp`: records `key LF value NUL`."""
    email = None
    urls: list[str] = []
    rewrites: list[tuple[str, str]] = []
    for record in output.split("\0"):
        key, _, value = record.partition("\n")
        if key == "user.email":
            email = value.strip()  # the nearest file comes last and wins
        elif key == "remote.origin.url":
            urls.append(value)  # git fetches from the first
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
    return {
        "email": bounded(email) if email else None,
        "project": None if project is None else bounded(project),
        "project_id": None if project is None else _sha256(project),
    }


def salted(project_id: str, salt: str) -> str:
    """Return a `project_id` that tells projects apart. Without `salt` nobody can look it up."""
    return _sha256(f"{salt}:{project_id}")


def _sha256(text: str) -> str:
    import hashlib  # milliseconds, only needed for a project

    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


# The forms of the "GIT URLS" section of git's manual. Not `file`: a local path identifies a person, not a project.
_PORT = r"(?::[0-9]*)?"
_URL = (
    r"(?i:ssh|git|https?|ftps?|git\+ssh|ssh\+git|git\+https?)://"
    rf"(?:[^/]*@)?(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+){_PORT}/(?P<path>[^?#]*)(?s:.*)"
)
# One letter before the colon is a Windows drive, two colons are a remote helper. `user:password@host:path` is no
# address to git, but a password must not get into the project either.
_SCP = r"(?!.:|@?[^@:]*:[^/]*@)(?:[^/\\:]*@)?(?P<host>[\w.-]+):(?!:)(?P<path>(?s:.*))"
# `git@[::1]:path`, `[git@host:2222]:path`
_SCP_IN_BRACKETS = (
    r"(?:[^\[]*@)?\[(?:[^\]]*@)?"
    rf"(?P<host>[0-9a-fA-F.]*(?::[0-9a-fA-F.]*){{2,}}|[\w.-]+{_PORT})\]:(?P<path>(?s:.*))"
)


def normalise_remote(url: str) -> str | None:
    """Return `host/path` of a remote repository, the same for each way to write it: `github.com/acme/widget`.

    The host is in lower case. Scheme, user, password, port, query, outer slashes and a final `.git` are gone. None for
    local paths, `file:`, remote helpers (`ext::…`) and malformed addresses. Never raises.
    """
    import re  # in a sender the HTTP library has loaded it

    url = url.strip()
    found = re.fullmatch(_URL if "://" in url else _SCP_IN_BRACKETS if "]:" in url else _SCP, url)
    if found is None:
        return None
    host = found["host"].strip("[]").lower().rstrip(".")
    host = f"[{host}]" if host.count(":") > 1 else host.partition(":")[0]
    path = "/".join(segment for segment in found["path"].split("/") if segment).removesuffix(".git").rstrip("/")
    return f"{host}/{path}" if host and path else None
