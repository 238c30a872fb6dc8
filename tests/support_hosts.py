"""Hosts that are real processes, the senders that they start, and what must be left of both after a test: nothing.

    def test_something(hosts):
        hosts.assert_runs("client = new_client(); client.capture('built', distinct_id='me')", arrived=["built"])

A host is a Python script, run with an empty home, an empty temp directory, an empty working directory and an
environment that holds nothing but what every process needs, and the test's mark (`support_processes`). The `hosts`
fixture sees to it that none of them outlives the test and that no file was written.

`HAZARD_SRC`, the path of a changed copy of `src`, makes the hosts import that one: so one sees a test go red when a
protection is taken out. `HAZARD_PATIENCE`, in seconds, makes that quick.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pytest

from atotelemetry.testing import CaptureServer
from support_processes import (
    CAN_FIND,
    MARK,
    PATIENCE,
    describe,
    go_on,
    kill,
    marked,
    new_mark,
    senders,
    stop,
    wait_for_end,
    wait_for_senders,
    wait_until,
    wait_until_no_sender,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

needs_senders = pytest.mark.skipif(not CAN_FIND, reason="senders are found through /proc")
# Not by a look for it: Wine may show the machine's own.
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks at a process through /proc")

# The variables that a process needs; Windows finds its libraries and programs by the latter.
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT")

PREAMBLE = '''
import os, signal, sys, threading, time
import atotelemetry

# A suite in the background of a shell, or under nohup, hands signals on that are ignored.
for ignored in ("SIGHUP", "SIGQUIT") if os.name == "posix" else ():
    signal.signal(getattr(signal, ignored), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

slower = 1 if os.name == "posix" else 3  # Wine, beside other workers

def new_client(**settings):
    """A client with a small sender; most hosts have one."""
    known = {"app": "host", "app_version": "1", "request_timeout": 5.0 * slower, "sender_deadline": 10.0 * slower}
    return atotelemetry.TelemetryClient("phc_test", os.environ["TEST_SERVER"], **{**known, **settings})

def say(*words):
    """Tell the test something, now."""
    print(*words, flush=True)

def hear():
    """Wait for a line of the test's, or for the end of stdin."""
    return sys.stdin.readline().strip()

def wait_until(condition, patience=20.0 * slower):
    """Wait for something that another thread or process does."""
    ends_at = time.monotonic() + patience
    while not condition():
        if time.monotonic() > ends_at:
            sys.exit(f"waited {patience} s in vain; {[thread.name for thread in threading.enumerate()]}")
        time.sleep(0.002)

def handed_over(client, count):
    """Wait until so many events are in the pipe."""
    wait_until(lambda: client.stats.handed_over >= count)

def children():
    """Return the process ids of this process's children, zombies included."""
    tasks = os.listdir("/proc/self/task")
    return [pid for task in tasks for pid in open(f"/proc/self/task/{task}/children").read().split()]

def hand_over_one(client, name="event 0"):
    """Hand one event over, and wait for the test, which may stop the sender (`Hosts.stop_the_sender`)."""
    client.capture(name, distinct_id="me")
    handed_over(client, 1)
    say("ready")
    hear()

def in_threads(count, work):
    """Call `work(number)` in so many threads at once, and wait for them."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

def forked(name):
    """Fork a child that captures one event, hands it over and leaves; return its process id."""
    pid = os.fork()
    if pid == 0:
        client.capture(name, distinct_id="me")
        os._exit(0 if client.flush(20) else 1)
    return pid

def wait_for(pid):
    """Wait for a child, and pass its failure on."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code

'''

# Options that show every warning. Python 3.12 and later warn a program that forks while it has threads.
WARN = ("-W", "always")

# Gives a program the terminal on its standard input, as a terminal window does: a session of its own, led by it.
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Finished(NamedTuple):
    """What a host that has ended leaves behind."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


class Host:
    """One running host process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        self.started_at = time.monotonic()

    def hear(self) -> str:
        """Wait for a line of the host's; what it printed on stderr is the error when it ends without one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"the host ended: {self.finish()}")
        return line.strip()

    def tell(self, line: str = "") -> None:
        """Send the host a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def finish(self, timeout: float = PATIENCE) -> Finished:
        """Close the host's stdin and wait for its end, and for the end of its output."""
        stdout, stderr = self.process.communicate(timeout=timeout)
        return Finished(self.process.returncode, stdout or "", stderr or "", time.monotonic() - self.started_at)

    def assert_ends(self, returncode: int = 0, stdout: str | None = "") -> Finished:
        """Let the host finish: with this exit code, this on stdout (None: anything), and nothing on stderr."""
        done = self.finish()
        assert done[:3] == (returncode, done.stdout if stdout is None else stdout, ""), done
        return done

    def wait_for_children(self) -> None:
        """Wait until the host has no child, not even a zombie."""
        wait_until(lambda: not children(self.pid), lambda: children(self.pid))

    def send(self, number: int) -> None:
        """Send the host a signal."""
        self.process.send_signal(number)


class Hosts:
    """Starts the hosts of one test and knows the senders that they start."""

    def __init__(self, directory: Path, server: CaptureServer) -> None:
        self.server = server
        self.preamble = PREAMBLE  # a test may add helpers of its own
        self.mark = new_mark()
        self.directory = directory
        self.home, self.work = directory / "home", directory / "work"
        self.cache = directory / "cache"  # senders note there that a network failed
        for made in (self.home, self.work, self.cache):
            made.mkdir()
        # Not below `directory`: the path of a socket in it must be short (sun_path in unix(7) holds 108 bytes).
        self.temp = Path(tempfile.mkdtemp(prefix="ato-")).resolve()
        self.environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self.environment |= {
            **dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"), str(self.home)),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.temp)),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_CACHE_HOME": str(self.cache),
            "TEST_SERVER": server.url,
            MARK: self.mark,
        }
        if source := os.environ.get("HAZARD_SRC"):
            self.environment["PYTHONPATH"] = source
        self._processes: list[subprocess.Popen[str]] = []
        self._scripts = 0

    def choice(self, app: str = "atopile") -> Path:
        """Return where a person's choice about an application lies."""
        directory = self.home / app if sys.platform == "win32" else self.home / ".config"
        return directory / app / "telemetry.yaml"

    # ---- hosts

    def script(self, source: str, *, preamble: bool = True, path: Path | None = None) -> str:
        """Write a host's source, by default with `self.preamble` in front; return the file's path."""
        self._scripts += 1
        path = path or self.directory / f"host{self._scripts}.py"
        path.write_text((self.preamble if preamble else "") + source, encoding="utf-8", newline="\n")
        return str(path)

    def command(self, source: str, *arguments: str, options: Iterable[str] = (), preamble: bool = True) -> list[str]:
        """Return the command line of a host with this source; `options` are the interpreter's."""
        return [sys.executable, *options, self.script(source, preamble=preamble), *arguments]

    def start(
        self, source: str, *arguments: str, options: Iterable[str] = (), preamble: bool = True, **more: Any
    ) -> Host:
        """Start a host; `options` are the interpreter's, `more` those of `start_command`."""
        return self.start_command(self.command(source, *arguments, options=options, preamble=preamble), **more)

    def start_command(
        self,
        command: list[str],
        *,
        environment: dict[str, str] | None = None,
        cwd: Path | str | None = None,
        stdin: int | IO[bytes] = subprocess.PIPE,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        pass_fds: tuple[int, ...] = (),
        new_session: bool = False,
    ) -> Host:
        """Start any command as a host, its streams on pipes; `environment` comes on top of the usual one."""
        process = subprocess.Popen(
            command,
            env={**self.environment, **(environment or {})},
            cwd=cwd or self.work,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=new_session,
            text=True,
            errors="backslashreplace",
        )
        self._processes.append(process)
        return Host(process)

    def run(self, source: str, *arguments: str, **options: Any) -> Finished:
        """Run a host to its end; `options` are those of `start`."""
        return self.start(source, *arguments, **options).finish()

    def assert_runs(
        self,
        source: str,
        *arguments: str,
        returncode: int = 0,
        stdout: str | None = "",
        arrived: Iterable[str] | None = None,
        **options: Any,
    ) -> Finished:
        """Run a host to its end: `Host.assert_ends`, and these events arrive once each, and no other."""
        done = self.start(source, *arguments, **options).assert_ends(returncode, stdout)
        if arrived is not None:
            self.assert_arrived_once(*arrived)
        return done

    def run_command(self, command: list[str], **options: Any) -> Finished:
        """Run any command as a host, to its end; `options` are those of `start_command`."""
        return self.start_command(command, **options).finish()

    def start_on_terminal(self, command: list[str], environment: dict[str, str] | None = None) -> tuple[Host, int]:
        """Start a command in the foreground of a new terminal; return it and the terminal's other end."""
        mine, theirs = os.openpty()
        try:
            host = self.start_command(
                [sys.executable, "-c", ON_TERMINAL, *command],
                environment=environment,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                new_session=True,
            )
        finally:
            os.close(theirs)
        return host, mine

    # ---- senders

    def senders(self) -> list[int]:
        """Return the process ids of this test's senders, and of what they started; not of zombies."""
        return senders(self.mark)

    def wait_for_senders(self, count: int = 1) -> list[int]:
        """Wait until at least so many senders run; return their process ids."""
        return wait_for_senders(count, self.mark)

    def wait_until_no_sender(self, timeout: float = PATIENCE) -> None:
        """Wait until this test's senders have ended."""
        wait_until_no_sender(self.mark, timeout)

    def stop_the_sender(self, host: Host) -> int:
        """Stop the sender of a host that has handed over one event, once that has arrived; return its process id."""
        assert host.hear() == "ready"
        self.server.wait_for_events(1)
        (sender,) = self.senders()
        stop(sender)
        host.tell()
        return sender

    # ---- what arrived

    def arrived(self) -> Counter[str]:
        """Return how often each event name was accepted by the server so far."""
        return Counter(event["event"] for event in self.server.events)

    def assert_arrived_once(self, *names: str) -> None:
        """Wait until so many events arrived and all senders are gone: these arrived, each once, and no other."""
        self.server.wait_for_events(len(names), timeout=PATIENCE)
        self.wait_until_no_sender()
        arrived = self.arrived()
        expected = Counter(names)
        assert arrived == expected, f"lost: {expected - arrived}; too many: {arrived - expected}"
        uuids = Counter(event["uuid"] for event in self.server.events)
        assert max(uuids.values(), default=1) == 1, "two events share a uuid"

    # ---- the end of a test

    def close(self) -> list[str]:
        """End every process of this test; return what a clean test would not have left."""
        left = []
        for process in self._processes:
            if process.poll() is None:
                left.append(f"host {process.args!r:.200} still ran")
                process.kill()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.wait()
        for pid in self.senders():
            go_on(pid)
        self.server.stop()  # whoever hangs on it now hears of it
        try:
            self.wait_until_no_sender()
        except AssertionError as error:
            left.append(str(error))
        for pid, _ in list(marked(self.mark)):
            if wait_for_end(pid, 5.0):  # helpers of `multiprocessing` notice their parent's end a moment later
                continue
            left.append(f"process {pid} still ran: {describe(pid)}")
            kill(pid)
        for directory in (self.home, self.temp, self.work):
            left += [f"{path} was written" for path in directory.rglob("*")]
        shutil.rmtree(self.temp, ignore_errors=True)
        return left


@contextmanager
def hosts_in(directory: Path, *, may_choose: bool = False) -> Iterator[Hosts]:
    """Hosts, their senders and a server. They leave nothing, but a `telemetry.yaml` if they `may_choose`."""
    directory.mkdir(exist_ok=True)
    with CaptureServer() as server:
        started = Hosts(directory, server)
        try:
            yield started
        finally:
            if may_choose:
                for path in [started.home / ".config", *started.home.glob("*/*/telemetry.yaml")]:
                    shutil.rmtree(path.parents[1] if path.name == "telemetry.yaml" else path, ignore_errors=True)
            left = started.close()
        assert not left, "left behind: " + "; ".join(left)


def program_that_exits(directory: Path) -> str:
    """Return the path of a `python` that ends at once, made in a new directory."""
    directory.mkdir()
    if sys.platform != "win32":
        program = directory / "python"
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
        return str(program)
    base = Path(sys.base_prefix)
    for file in (base / "python.exe", *base.glob("*.dll")):
        shutil.copy(file, directory)
    # The only place that it imports from, and nothing is there.
    (directory / f"python{sys.version_info[0]}{sys.version_info[1]}._pth").write_text(".\n")
    return str(directory / "python.exe")


def children(pid: int) -> dict[int, str]:
    """Return the children of a process, zombies included, with what `describe` says of each."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == pid:
                found[int(name)] = describe(int(name))
    return found


def read_to_end(descriptor: int, timeout: float = PATIENCE) -> bytes:
    """Read a pipe or a terminal until everybody on its other side has closed it; fails after `timeout` seconds."""
    ends_at = time.monotonic() + timeout
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    received = b""
    while True:
        assert poll.poll(max(0.0, ends_at - time.monotonic()) * 1000), f"somebody holds it open; so far: {received!r}"
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # EIO: how a terminal says it
            return received
        if not data:
            return received
        received += data
