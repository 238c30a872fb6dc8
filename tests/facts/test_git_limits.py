"""Gits that never answer: the time limit, and no git that outlives it."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest

from atotelemetry.facts.run import RUN_PROPERTIES, run_properties
from support_git import GIT_NAMES, NO_GIT_FACTS, posix_only


@posix_only
class TestTimeLimit:
    @pytest.fixture
    def held(self, tmp_path):
        """Make a named pipe whose reader sees its end when every process that opened it for writing is gone."""
        path = tmp_path / "held"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reader, True)
        yield path, reader
        os.close(reader)

    def test_hanging_git(self, git, repository, held, tmp_path):
        """A git that hangs costs the limit and no more, is killed with all it started, and leaves the other facts."""
        path, reader = held
        folder = tmp_path / "bin"
        folder.mkdir()
        fake = folder / "git"
        fake.write_text(f'#!/bin/sh\nexec 3>"{path}"\necho started >&3\nsleep 20\n', encoding="utf-8")
        fake.chmod(0o755)
        environ = {**git.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "CI": "1"}
        start = time.monotonic()
        facts = run_properties(RUN_PROPERTIES, cwd=str(repository), app_version="1", environ=environ, time_limit=0.5)
        assert time.monotonic() - start < 5
        assert facts == {**facts, **NO_GIT_FACTS, "ci_provider": "Other", "atopile_version": "1"}
        with os.fdopen(os.dup(reader), "rb") as stream:
            # The end of the file: the shell is dead, and so is the `sleep` that it started.
            assert set(stream.read().split()) <= {b"started"}
        assert time.monotonic() - start < 10

    def test_one_git_hangs(self, git, repository, head, tmp_path):
        """Where one question hangs git (a configuration file that is a pipe), what another answered is kept."""
        os.mkfifo(tmp_path / "pipe")
        folder = tmp_path / "bin"
        folder.mkdir()
        # Only `config` reads the pipe, so that this is about one of the two.
        (folder / "git").write_text(
            f'#!/bin/sh\ncase "$*" in *--get-regexp*) exec cat "{tmp_path}/pipe";; esac\nexec "{git.program}" "$@"\n',
            encoding="utf-8",
        )
        (folder / "git").chmod(0o755)
        environ = {**git.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        assert git.facts(repository, environ=environ, time_limit=4.0) == {**NO_GIT_FACTS, "current_git_hash": head}

    def test_configuration_never_ends(self, git, repository, tmp_path):
        """A real git that hangs on what its configuration includes is given up."""
        os.mkfifo(tmp_path / "pipe")
        git(repository, "config", "include.path", str(tmp_path / "pipe"))
        start = time.monotonic()
        assert git.facts(repository, time_limit=0.5) == NO_GIT_FACTS
        assert time.monotonic() - start < 5

    def test_dead_drive(self, git, repository, monkeypatch):
        """A drive on which even a look at a file never returns costs the limit, and nothing is started after it."""
        answers, started = threading.Event(), []

        def look(path: str) -> bool:
            answers.wait()
            return True

        monkeypatch.setattr(os.path, "isfile", look)
        monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: started.append(arguments))
        workers = set(threading.enumerate())
        try:
            facts = git.facts(repository, (*GIT_NAMES, "via_docker"), time_limit=0.2)
            (worker,) = set(threading.enumerate()) - workers
        finally:
            answers.set()
        assert facts == {**NO_GIT_FACTS, "via_docker": False}
        worker.join(10)
        assert not worker.is_alive()
        assert worker.daemon
        assert started == []

    @pytest.mark.parametrize("limit", [0.0, -1.0])
    def test_no_time(self, git, repository, limit):
        """Without any time no thread and no process is started, and what costs nothing is there."""
        threads = threading.active_count()
        assert git.facts(repository, (*GIT_NAMES, "via_docker"), time_limit=limit) == {
            **NO_GIT_FACTS,
            "via_docker": False,
        }
        assert threading.active_count() == threads

    def test_no_thread(self, git, repository, monkeypatch):
        """Where no thread can be started the facts of git are None."""

        def refuse(self) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert git.facts(repository) == NO_GIT_FACTS

    def test_no_process(self, git, repository, monkeypatch):
        """Where no process can be started the facts of git are None."""

        def refuse(*arguments, **options) -> None:
            raise BlockingIOError("process limit")

        monkeypatch.setattr(subprocess, "Popen", refuse)
        assert git.facts(repository) == NO_GIT_FACTS
