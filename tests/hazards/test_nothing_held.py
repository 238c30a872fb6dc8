"""The sender lives on after the host, and nobody can tell: it holds nothing of the host's, and leaves nothing behind.

All with a server that never answers, so that the sender surely outlives the host.
"""

from __future__ import annotations

import os
import shlex

import pytest

from atotelemetry.testing import Answer
from support_hosts import describe, needs_senders, read_to_end

pytestmark = needs_senders

CLI = """
client = new_client()
client.capture("one", distinct_id="me")
client.capture("two", distinct_id="me")
print("output of the CLI")
"""


@pytest.fixture(autouse=True)
def hanging_server(hosts):
    hosts.server.respond(Answer(hang=True))
    return hosts.server


def open_files(pid):
    """Return what each descriptor of a process leads to."""
    directory = f"/proc/{pid}/fd"
    return {int(name): os.readlink(f"{directory}/{name}") for name in os.listdir(directory)}


@pytest.mark.posix("a shell")
@pytest.mark.parametrize("shell", ['out=$({}); echo "got: $out"', "{} | cat", "{} 2>&1 | cat", "{} |& cat"])
def test_a_shell_that_reads_the_cli_is_done_when_the_cli_is(hosts, shell):
    """`out=$(cli)` and `cli | cat` end with the CLI, although its sender still waits for a server that hangs."""
    line = shell.format(shlex.join(hosts.command(CLI)))
    done = hosts.run_command(["bash", "-c", line])
    (sender,) = hosts.wait_for_senders()  # on a busy machine it is still about to become one
    assert (done.returncode, done.stderr) == (0, "")
    assert "output of the CLI" in done.stdout
    assert describe(sender)


@pytest.mark.posix("descriptors")
def test_a_descriptor_that_the_host_made_inheritable_is_closed_with_the_host(hosts):
    """A host made pipes and files inheritable (for a server it starts, or by Python's old default): none stays open."""
    mine, theirs = os.pipe()
    try:
        host = hosts.start_command(
            hosts.command(
                """
pipe = int(sys.argv[1])
assert os.get_inheritable(pipe)
high = os.dup(pipe)
os.dup2(high, 200)  # as shells do, far from the rest
"""
                + CLI,
                str(theirs),
            ),
            pass_fds=(theirs,),
        )
    finally:
        os.close(theirs)
    with os.fdopen(mine, "rb", buffering=0):
        host.assert_ends(stdout=None)
        assert read_to_end(mine) == b""
        assert len(hosts.wait_for_senders()) == 1


@pytest.mark.posix("descriptors")
@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="no limit on descriptors")
def test_a_descriptor_above_a_limit_that_was_lowered(hosts):
    """It was opened before: a sender starts nevertheless, and lets go of it."""
    source = """
import resource
os.dup2(0, 200)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
client = new_client()
client.capture("one", distinct_id="me")
say(client.flush(20))
"""
    hosts.assert_runs(source, stdout="True\n")
    (sender,) = hosts.wait_for_senders()
    hosts.server.wait_for_requests(1)
    assert 200 not in open_files(sender)


@pytest.mark.posix("descriptors")
def test_a_running_sender_has_its_pipe_and_the_null_device_and_no_more_of_the_host(hosts):
    """While the host runs: stdin is the host's pipe, output goes nowhere, and it answers through one pipe more."""
    host = hosts.start(
        """
read_end, write_end = os.pipe()
os.set_inheritable(write_end, True)
os.set_inheritable(read_end, True)
client = new_client()
client.capture("one", distinct_id="me")
say("ready")
hear()
"""
    )
    assert host.hear() == "ready"
    hosts.server.wait_for_requests(1)  # by now the sender has everything open that it ever will
    (sender,) = hosts.wait_for_senders()
    files = open_files(sender)
    assert files[0].startswith("pipe:")
    assert files[1] == files[2] == os.devnull
    # What libraries open for themselves (sockets, epoll, random numbers) is not the host's.
    pipes = [path for number, path in files.items() if number > 0 and path.startswith("pipe:")]
    assert len(pipes) == 1
    assert pipes[0] in open_files(host.pid).values()
    assert os.readlink(f"/proc/{sender}/cwd") in {str(hosts.temp), os.sep}
    assert host.finish().returncode == 0


@pytest.mark.posix("descriptors")
def test_the_host_has_two_descriptors_of_ours_that_no_child_of_its_inherits(hosts):
    """A program that the host starts, and that outlives it, does not keep the sender's pipes open."""
    hosts.assert_runs(
        """
before = set(os.listdir("/proc/self/fd"))
client = new_client()
client.capture("one", distinct_id="me")
handed_over(client, 1)
ours = set(os.listdir("/proc/self/fd")) - before
say([os.get_inheritable(int(number)) for number in ours])
client.flush(20, delivered=True)
say(set(os.listdir("/proc/self/fd")) == before)
""",
        stdout="[False, False]\nTrue\n",
    )


@pytest.mark.posix("zombies")
def test_a_host_that_lives_on_has_no_zombie(hosts):
    """A service that captures now and then never shows `<defunct>` children for long."""
    hosts.server.respond(None)
    host = hosts.start(
        """
client = new_client()
while hear() == "capture":
    client.capture("one", distinct_id="me")
    say(client.flush())
"""
    )
    for _ in range(3):
        host.tell("capture")
        assert host.hear() == "True"
    host.wait_for_children()
    host.tell("end")
    assert host.finish().returncode == 0
    hosts.assert_arrived_once(*["one"] * 3)


@pytest.mark.posix("zombies")
def test_a_host_that_shut_its_client_down_and_lives_on_has_no_zombie(hosts):
    """After `shutdown` the last sender is still reaped: by then nothing else of ours goes on in the host."""
    hosts.server.respond(None)
    host = hosts.start(
        """
client = new_client()
client.capture("one", distinct_id="me")
say(client.shutdown())
hear()
wait_until(lambda: len(os.listdir("/proc/self/task")) == 1)
"""
    )
    assert host.hear() == "True"
    host.wait_for_children()
    host.assert_ends()
    hosts.assert_arrived_once("one")


@pytest.mark.posix("zombies")
def test_a_host_that_flushes_all_the_time_gathers_no_children(hosts):
    """A service that flushes after each request meets at most the last spawned process, for a moment."""
    hosts.server.respond(None)
    hosts.assert_runs(
        """
client = new_client()
for _ in range(8):
    client.capture("one", distinct_id="me")
    client.flush()
    assert len(children()) <= 1
wait_until(lambda: not children())
""",
        arrived=["one"] * 8,
    )


@pytest.mark.posix("SIGCHLD")
@pytest.mark.parametrize("reaping", ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "reap_everything()"])
def test_a_host_that_reaps_every_child_itself_is_not_disturbed(hosts, reaping):
    """An init-like host takes the exit status of our sender: no error, no wait, and the next event is sent as well."""
    hosts.server.respond(None)
    hosts.assert_runs(
        f"""
def reap_everything():
    def handle(*_):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
    signal.signal(signal.SIGCHLD, handle)
{reaping}
client = new_client()
for number in range(3):
    client.capture(f"event {{number}}", distinct_id="me")
    client.flush(20, delivered=True)
""",
        options=("-W", "error", "-X", "dev"),
        arrived=["event 0", "event 1", "event 2"],
    )


@pytest.mark.parametrize(
    "ending", ["", "client.flush()", "client.shutdown()", "del client", "client.flush(20, delivered=True)"]
)
def test_no_warning_however_the_client_ends(hosts, ending):
    """A host under `-W error -X dev` sees no ResourceWarning, whether it ends its client or forgets about it."""
    hosts.server.respond(None)
    hosts.assert_runs(
        f"""
import gc
client = new_client()
client.capture("one", distinct_id="me")
handed_over(client, 1)
{ending}
gc.collect()
""",
        options=("-W", "error", "-X", "dev"),
        arrived=["one"],
    )


@pytest.mark.posix("a shell")
def test_the_exit_codes_of_the_hosts_children_are_its_own(hosts):
    """`subprocess` in the host gets the exit codes of its own children: we wait for ours, and never for any child."""
    hosts.assert_runs(
        """
import subprocess
client = new_client()
client.capture("one", distinct_id="me")
handed_over(client, 1)
say(subprocess.run(["sh", "-c", "exit 3"]).returncode)
ended = subprocess.Popen(["sh", "-c", "exit 4"], stdout=subprocess.PIPE)
ended.stdout.read()
ended.stdout.close()
say(client.flush(0.2, delivered=True))  # looks for its own child's end all the time, and it does not come
say(ended.wait())
""",
        options=("-W", "error", "-X", "dev"),
        stdout="3\nFalse\n4\n",
    )


@pytest.mark.posix("mounts")
def test_the_directory_where_the_host_ran_can_be_unmounted_and_removed(hosts):
    """The sender does not sit in the host's working directory: an unmount, or a removal on Windows, would fail."""
    done = hosts.run(CLI)
    assert done.returncode == 0
    hosts.server.wait_for_requests(1)
    (sender,) = hosts.wait_for_senders()
    assert os.readlink(f"/proc/{sender}/cwd") in {str(hosts.temp), os.sep}


@pytest.mark.posix("SIGPIPE")
def test_a_host_in_a_pipeline_whose_reader_left_ends_as_it_would_without_us(hosts):
    """`cli | head -1`: the CLI's own broken pipe is its own; with telemetry or without, the same exit code."""
    source = """
client = new_client(){off}
client.capture("one", distinct_id="me")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for _ in range(100_000):
    print("line")
"""
    codes = []
    for off in ("; client.disabled = True", ""):
        line = shlex.join(hosts.command(source.format(off=off))) + " | head -1; echo ${PIPESTATUS[0]}"
        done = hosts.run_command(["bash", "-c", line])
        assert done.stderr == ""
        codes.append(done.stdout)
    assert codes == ["line\n141\n"] * 2
