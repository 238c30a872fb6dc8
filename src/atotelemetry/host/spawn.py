"""Starts one detached sender.

Runs in the host, on the feeder's thread (or on the exiting thread when no thread can be started any more). The only
place that knows how an operating system starts a process. On POSIX the child comes from `posix_spawn`: no copy of the
host's memory, no Python code between fork and exec. It forks at once and leaves, so that the sender is nobody's child.
`spawn_windows` is the same for Windows.

The sender is the host's own interpreter on the host's own packages. It gets nothing else of the host: no output,
session, descriptor or start-up hook of Python, and it imports only from the directories of its own packages.
"""

from __future__ import annotations

import errno
import os
import sys

from atotelemetry.host.child import Sender

if sys.platform == "win32":
    # Here, not at the first start: the feeder's thread must not wait for the import lock, which a Ctrl-C in the wrong
    # moment leaves locked.
    from atotelemetry.host import spawn_windows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = [
    "SENDER_MARK",
    "CannotSpawn",
    "ends_everybody",
    "import_path",
    "pipe_above_standard_streams",
    "reason_not_to_spawn",
    "sender_environment",
    "start_sender",
]

SENDER_MARK = "ATO_TELEMETRY_SENDER"
"""Set in the environment of every sender, so that a sender (and whatever it runs) never starts another."""

# Python's variables that say *where* it is. All others change *how* it runs, and stay behind.
_PYTHON_VARIABLES_KEPT = frozenset({"PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "PYTHONPLATLIBDIR"})
_HOOK_VARIABLES = ("COV_CORE_", "COVERAGE_", "PYTEST_", "PYCHARM_", "PYDEVD_", "DEBUGPY_")

_INTERPRETER_NAMES = ("python", "pypy", "graalpy")

# The sender's packages beside the standard library and this one. Their optional packages (brotli, socksio,
# typing_extensions) are found if they lie beside one of them.
_PACKAGES = ("msgspec", "httpx", "httpcore", "h11", "anyio", "idna", "certifi", "truststore")

# If a sandbox (seccomp) or a C library refuses `setsid`, the sender makes its session itself, or has none.
_NO_SETSID = frozenset({errno.EPERM, errno.ENOSYS, errno.EINVAL})

# The first process of a system that goes on when its children end.
_SYSTEM_MANAGERS = frozenset(
    {"systemd", "init", "launchd", "upstart", "runit", "openrc-init", "s6-svscan", "dinit", "shepherd"}
)


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # deleted: then nothing can be imported from it


_START_DIRECTORY = _current_directory()


class CannotSpawn(Exception):
    """No sender can be started from this process, now or ever; the text says why."""


def reason_not_to_spawn() -> str:
    """Why this process can never have a sender, or an empty string."""
    if os.environ.get(SENDER_MARK):
        return "this process is a sender, or was started by one"
    if getattr(sys, "frozen", False):
        return "frozen application: its executable is not a Python interpreter"
    executable = sys.executable
    if not executable:
        return "sys.executable is not known"
    # Embedding programs (application servers, CAD tools) put themselves into sys.executable: that would start a second
    # server, not a sender.
    if not os.path.basename(executable).lower().startswith(_INTERPRETER_NAMES):
        return "sys.executable is not a Python interpreter"
    return ""


def ends_everybody() -> bool:
    """Whether every other process ends with this one: the first of a container, or its child.

    An interactive shell in a container stays, and its user is not to wait for the network.
    """
    if sys.platform == "win32":
        return False
    if os.getpid() == 1:
        return True
    if os.getppid() != 1 or os.isatty(2):
        return False
    try:
        with open("/proc/1/comm", "rb") as command:
            return command.read().decode(errors="replace").strip() not in _SYSTEM_MANAGERS
    except OSError:
        return False  # no Linux, so no container


def start_sender(*, urgent: bool = False, watch: bool = False, dumps: int = -1) -> Sender:
    """Start a detached sender that reads from a new pipe and answers through another.

    An `urgent` one does not lower its priority: the host will wait for it. One that is to `watch` the host gets a pidfd
    of it, and `dumps`, the read end of the pipe for its dumps, unless that is -1. Raises `CannotSpawn` where it makes
    no sense to try again, and `OSError` where it may.
    """
    executable = sys.executable
    if sys.platform == "win32":
        executable = spawn_windows.interpreter()
    if _START_DIRECTORY is not None:
        executable = os.path.join(_START_DIRECTORY, executable)  # a relative one; the host may have gone elsewhere
    arguments = [executable, "-P", "-S", "-m", "atotelemetry.sender", "--detached"]
    if urgent:
        arguments.append("--urgent")
    if dumps >= 0:
        arguments.append("--dumps")
    environment = sender_environment(os.environ.copy(), import_path())
    try:
        if sys.platform == "win32":
            return spawn_windows.start(arguments, environment, humble=not urgent)
        return _start_posix(arguments, environment, dumps, watch=watch)
    except FileNotFoundError:
        raise CannotSpawn("the interpreter is gone") from None


def sender_environment(environ: dict[str, str], path: Iterable[str]) -> dict[str, str]:
    """Turn the host's environment into the sender's: proxies and certificates stay, hooks into Python go.

    PYTHONINSPECT, PYTHONSTARTUP, PYTHONWARNINGS and the like would change the sender; coverage and debuggers would
    follow it. PYTHONPATH becomes `path`.
    """
    for name in list(environ):
        if name.startswith("PYTHON"):
            if name not in _PYTHON_VARIABLES_KEPT:
                del environ[name]
        elif name.startswith(_HOOK_VARIABLES):
            del environ[name]
    # By whichever way the host keeps debuggers out (PEP 768), they stay out of its sender, too.
    if hasattr(sys, "is_remote_debug_enabled") and not sys.is_remote_debug_enabled():
        environ["PYTHON_DISABLE_REMOTE_DEBUG"] = "1"
    environ["PYTHONPATH"] = os.pathsep.join(path)
    environ[SENDER_MARK] = "1"
    return environ


def import_path() -> list[str]:
    """Return the directories that the sender imports from: only those of its own packages.

    So no file in another entry of the host's path (such as a `brotli.py`, for httpx) counts as a package. The standard
    library and the homes of this package and of msgspec come first. Nothing is imported to find the others. Raises
    `CannotSpawn` when this package lies in the working directory: the sender must not import from there.
    """
    forbidden = _known_as(_START_DIRECTORY) | _known_as(_current_directory())
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    library = os.path.dirname(os.path.abspath(os.__file__))
    path: list[str] = []

    def add(entry: str) -> None:
        if entry not in path and os.pathsep not in entry and forbidden.isdisjoint(_known_as(entry)):
            path.append(entry)

    for entry in (library, os.path.join(library, "lib-dynload"), own):
        add(entry)
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and msgspec.__file__:
        add(os.path.dirname(os.path.dirname(os.path.abspath(msgspec.__file__))))
    if own not in path:
        raise CannotSpawn("atotelemetry was imported from the working directory")
    if not os.path.exists(own):
        raise CannotSpawn("atotelemetry was imported through a path that no longer leads to it")
    # Most often all of them lie beside msgspec; each then costs one system call.
    missing = [name for name in _PACKAGES if not any(_lies_in(entry, name) for entry in reversed(path))]
    for home in _homes(missing, forbidden) if missing else ():
        add(home)
    return path


def _lies_in(directory: str, package: str) -> bool:
    name = os.path.join(directory, package)
    return os.path.exists(name) or os.path.exists(f"{name}.py")


def _homes(packages: list[str], forbidden: set[object]) -> list[str]:
    """Find the directories that packages would be imported from."""
    from _frozen_importlib_external import PathFinder  # as in `importlib.machinery`, which we do not load

    # PWD is the directory in which a shell started the host, before any change of directory.
    forbidden = forbidden | _known_as(os.environ.get("PWD"))
    # A relative entry (a zipapp started by a relative name) is relative to the working directory of that moment.
    entries = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str) and entry]
    entries = [entry for entry in dict.fromkeys(entries) if forbidden.isdisjoint(_known_as(entry))]
    homes = []
    for package in packages:
        spec = PathFinder.find_spec(package, entries)
        if spec is not None:
            places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
            homes += [os.path.dirname(place) for place in places if place]
    return homes


def _known_as(directory: str | None) -> set[object]:
    """Return a directory's identity, the same for all its names: the path, and the inode (symlinks)."""
    if not directory:
        return set()
    known: set[object] = {os.path.normcase(directory)}
    try:
        status = os.stat(directory)
    except (OSError, ValueError):
        return known
    return known | {(status.st_dev, status.st_ino)}


def _start_posix(
    arguments: list[str], environment: Mapping[str, str], dumps: int = -1, *, watch: bool = False
) -> Sender:
    handle = _handle_of_this_process() if watch else -1
    opened = [handle] if handle >= 0 else []
    try:
        stdin, pipe = pipe_above_standard_streams(opened)
        answers, stdout = pipe_above_standard_streams(opened)
        for end in (pipe, answers, stdout):  # nobody waits for anybody, from the first byte on
            os.set_blocking(end, False)
        pid = _spawn(arguments, environment, (stdin, stdout, dumps, handle))
        sender = Sender(pid, pipe, answers)
        opened = [end for end in opened if end not in (pipe, answers)]
    finally:
        for end in opened:
            os.close(end)
    return sender


def _handle_of_this_process() -> int:
    """Return a pidfd of this process, -1 where there is none."""
    try:
        return os.pidfd_open(os.getpid())
    except (OSError, AttributeError):
        return -1


def _spawn(arguments: list[str], environment: Mapping[str, str], given: tuple[int, int, int, int]) -> int:
    """Spawn a process whose first descriptors are those `given`; neither of the last two needs to be there."""
    # The built-in half of `signal`, which every interpreter has loaded.
    import _signal as signal  # type: ignore[import-not-found]
    import posix  # not `os`: debuggers replace its functions to follow child processes

    stdin, stdout, dumps, handle = given
    stderr: tuple[Any, ...]
    if dumps >= 0:
        stderr = (posix.POSIX_SPAWN_DUP2, dumps, 2)
    elif os.path.exists(os.devnull):
        stderr = (posix.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    else:
        stderr = (posix.POSIX_SPAWN_DUP2, stdin, 2)  # a pipe's read end refuses output just as well
    actions: list[Any] = [(posix.POSIX_SPAWN_DUP2, stdin, 0), (posix.POSIX_SPAWN_DUP2, stdout, 1), stderr]
    kept = 3
    # Descriptors that the host made inheritable would keep its `$(…)`, its sockets and its locks.
    if not hasattr(posix, "POSIX_SPAWN_CLOSEFROM"):  # Python 3.13 with a recent C library has it
        actions += [(posix.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable_descriptors()]
    if handle >= kept:  # else a host without standard streams; ours are there by now
        actions.append((posix.POSIX_SPAWN_DUP2, handle, kept))
        kept += 1
        arguments = [*arguments, "--watch"]
    if hasattr(posix, "POSIX_SPAWN_CLOSEFROM"):
        actions.append((posix.POSIX_SPAWN_CLOSEFROM, kept))

    # The feeder blocks every signal; its child must not. Only SIGTERM waits until the sender can answer it with a short
    # drain: systemd and CI agents send it right after our exit.
    options: dict[str, Any] = {"file_actions": actions, "setsigmask": (signal.SIGTERM,)}
    try:
        return posix.posix_spawn(arguments[0], arguments, environment, setsid=True, **options)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_SETSID:
            raise
    return posix.posix_spawn(arguments[0], arguments, environment, **options)


def _inheritable_descriptors() -> list[int]:
    """Return the descriptors above the standard streams that a new process would get."""
    for listing in ("/proc/self/fd", "/dev/fd"):
        try:
            descriptors = [int(name) for name in os.listdir(listing)]
        except (OSError, ValueError):
            continue
        # `posix_spawn` refuses to close one above a limit that was lowered; the sender does it.
        limit = os.sysconf("SC_OPEN_MAX")
        closable = [number for number in descriptors if number > 2 and (number < limit or limit < 0)]
        return [number for number in closable if _is_inheritable(number)]
    return []  # the sender closes them first of all


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False  # closed meanwhile: the listing's own


def pipe_above_standard_streams(opened: list[int]) -> tuple[int, int]:
    """Make a pipe with both ends above the standard streams, even if the host has closed some of those; note them.

    Otherwise a library that writes to descriptor 1 would write into our pipe.
    """
    ends = os.pipe()
    opened.extend(ends)
    if min(ends) > 2:  # stderr
        return ends
    import fcntl  # only a host without standard streams comes here

    for end in ends:
        opened.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))
        opened.remove(end)
        os.close(end)
    return opened[-2], opened[-1]
