"""Where the host's end is everybody's end: it is the first process of a container, or the child of that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from atotelemetry.host import spawn
from atotelemetry.testing import Answer
from support_hosts import needs_proc

if TYPE_CHECKING:
    from support_hosts import Hosts

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


def has_namespaces() -> bool:
    """Whether this user may make a namespace of processes."""
    if not shutil.which("unshare"):
        return False
    return not subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode


needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="namespaces of processes are not allowed here")
pytestmark = [needs_proc, pytest.mark.posix("namespaces and PID 1")]

CLI = 'client = new_client({settings})\nclient.capture("one", distinct_id="me")\n'
# Before the library is imported: `atexit` calls this when the library's own hook is done.
AFTER_OURS = "import atexit; atexit.register(lambda: {})\n"
# Under a shell that stays, as `docker run image sh -c "cli; …"` has it.
SHELL = ("sh", "-c", '"$@"; exit $?', "sh")


def command(hosts: Hosts, *above: str, settings: str = "") -> list[str]:
    return [*NAMESPACE, *above, *hosts.command(CLI.format(settings=settings))]


@needs_namespaces
@pytest.mark.parametrize(
    "above",
    [
        pytest.param((), id="pid 1"),
        pytest.param(SHELL, id="under a shell"),
        *(
            pytest.param(
                (init, "--"), id=f"under {init}", marks=pytest.mark.skipif(not shutil.which(init), reason=init)
            )
            for init in ("tini", "dumb-init")
        ),
    ],
)
def test_every_event_is_delivered_before_a_container_ends(hosts: Hosts, above: tuple[str, ...]) -> None:
    """The exit waits for the server, since the kernel ends the sender with the first process."""
    for _ in range(3):
        hosts.start_command(command(hosts, *above)).assert_ends()
    arrived = hosts.arrived()["one"]
    # Within FLUSH_TIMEOUT; a machine that is busy with other tests may not get that far every time.
    assert arrived >= 1, arrived


@needs_namespaces
def test_a_server_that_hangs_costs_a_container_the_flush_timeout(hosts: Hosts) -> None:
    """Hand-over and wait together."""
    hosts.server.respond(Answer(hang=True))
    hosts.preamble = AFTER_OURS.format("say(1.5 < time.monotonic() - began < 4)") + hosts.preamble
    source = """
def begin():
    global began
    began = time.monotonic()
atexit.register(begin)
client = new_client()
client.capture("one", distinct_id="me")
"""
    hosts.start_command([*NAMESPACE, *hosts.command(source)]).assert_ends(stdout="True\n")


@needs_namespaces
def test_a_container_whose_program_says_so_does_not_wait(hosts: Hosts) -> None:
    """`wait_for_delivery=False`."""
    hosts.server.respond(Answer(hang=True))
    source = CLI.format(settings="wait_for_delivery=False") + "began = time.monotonic()\n"
    check = "import atexit\natexit.register(lambda: say(time.monotonic() - began < 1))\n"
    done = hosts.run_command([*NAMESPACE, *hosts.command(check + source)])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.seconds < 30


def test_a_host_that_asks_for_it_waits_for_delivery_anywhere(hosts: Hosts) -> None:
    """A batch job, a oneshot unit, a serverless function: `wait_for_delivery=True`; its sender is not humble."""
    host = hosts.start(CLI.format(settings="wait_for_delivery=True") + "handed_over(client, 1)\nsay()\nhear()\n")
    host.hear()
    (sender,) = hosts.wait_for_senders()
    assert os.getpriority(os.PRIO_PROCESS, sender) == os.getpriority(os.PRIO_PROCESS, 0)
    host.tell()
    host.assert_ends()
    assert hosts.arrived() == {"one": 1}


def test_an_ordinary_exit_does_not_wait(hosts: Hosts) -> None:
    """Neither for a server that hangs nor for one that answers."""
    hosts.server.respond(Answer(hang=True))
    hosts.preamble = AFTER_OURS.format("say(client.stats.on_the_way, client.stats.delivered)") + hosts.preamble
    source = "client = new_client(); client.capture('one')"
    hosts.assert_runs(source, stdout="1 0\n")


@pytest.mark.parametrize(
    ("pid", "parent", "terminal", "name", "ends"),
    [
        (1, 0, True, "python", True),
        (7, 1, False, "sh", True),
        (7, 1, False, "tini", True),
        (7, 1, False, "docker-init", True),
        (7, 1, True, "bash", False),
        (7, 1, False, "systemd", False),
        (7, 1, False, "init", False),
        (7, 1, False, None, False),
        (7, 5, False, "sh", False),
    ],
)
def test_whose_end_is_everybodys(
    monkeypatch, tmp_path, pid: int, parent: int, terminal: bool, name: str | None, ends: bool
) -> None:
    """The first process of a container and its children are; not under a system manager, nor at a terminal."""
    comm = tmp_path / "comm"
    if name is not None:
        comm.write_text(f"{name}\n")
    monkeypatch.setattr(spawn, "open", lambda path, mode: {"/proc/1/comm": comm}[path].open(mode), raising=False)
    monkeypatch.setattr(spawn.os, "getpid", lambda: pid)
    monkeypatch.setattr(spawn.os, "getppid", lambda: parent)
    monkeypatch.setattr(spawn.os, "isatty", lambda _: terminal)
    assert spawn.ends_everybody() == ends


def test_this_process_is_no_container() -> None:
    """Else the rest of the suite would measure something else."""
    assert not spawn.ends_everybody(), sys.argv
