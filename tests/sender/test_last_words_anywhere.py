"""How a host ended, as each operating system tells it: with the sender's own object and a real process."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from atotelemetry.sender.last_words import LastWords
from atotelemetry.sender.reader import Source
from atotelemetry.wire import Hello, Watch

WINDOWS = sys.platform == "win32"


@pytest.fixture
def host():
    """Run a host that exits with the code in the line that it reads."""
    command = [sys.executable, "-c", "import os; print('ready', flush=True); os._exit(int(input()))"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def watching(process, **fields):
    settings = Hello(
        protocol=1,
        api_key="key",
        host="http://127.0.0.1:9",
        watch=Watch(pid=process.pid, began=time.time(), crash=True, **fields),
    )
    return LastWords(settings, settings.watch, Source())


def test_a_host_that_lives_is_no_news(host):
    """It has closed its pipe, no more."""
    assert watching(host).end(None, 0.05, said_goodbye=False) is None


def test_an_exit_of_its_own_is_no_news(host):
    """Code 0 is nobody else's on any system."""
    last_words = watching(host)
    host.communicate("0\n", timeout=60)
    found = last_words.end(None, 5.0, said_goodbye=False)
    assert found is None if WINDOWS or sys.platform == "linux" else b'"unknown"' in bytes(found.properties)


def test_a_killed_host_has_vanished(host):
    """Only Linux tells the signal; on Windows any other code than 0 may be a killer's."""
    last_words = watching(host)
    host.kill()
    host.wait(60)
    report = last_words.end(None, 5.0, said_goodbye=False)
    assert report is not None
    assert report.event == "run_vanished"
    outcome = b"killed" if sys.platform == "linux" else b"unknown"
    assert b'"outcome":"%b"' % outcome in bytes(report.properties)


@pytest.mark.skipif(not WINDOWS, reason="an exit code of Windows' own")
def test_an_exception_of_windows_has_killed_the_host(host):
    """The exit code of a process that an access violation ends is that of the exception."""
    last_words = watching(host)
    host.communicate(f"{0xC0000005 - 2**32}\n", timeout=60)
    report = last_words.end(None, 5.0, said_goodbye=False)
    assert report is not None
    assert b'"outcome":"killed"' in bytes(report.properties)
    assert b'"signal":"0xC0000005"' in bytes(report.properties)


@pytest.mark.skipif(sys.platform == "linux", reason="there it is known")
def test_elsewhere_no_host_is_asked_for_its_stacks(host):
    """There is no signal that reaches this process and surely no other."""
    assert watching(host, hang_after=1.0).hang_after is None
