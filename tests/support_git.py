"""Real repositories, and a git apart from the configuration of whoever runs the tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atotelemetry.facts.run import run_properties

GIT_NAMES = ("email", "current_git_hash", "project_id")
# An e-mail address that is not known is left out.
NO_GIT_FACTS = {"current_git_hash": None, "project_id": None}
WIDGET = hashlib.sha256(b"github.com/acme/widget").hexdigest()
EMAIL = "dev@example.org"

# Long enough that a busy machine never meets it; tests that wait for the limit set their own.
PLENTY = 30.0

posix_only = pytest.mark.skipif(os.name == "nt", reason="needs /bin/sh and named pipes")


class Git:
    """Runs git apart from the configuration of whoever runs the tests."""

    def __init__(self, home: Path) -> None:
        program = shutil.which("git")
        if program is None and sys.platform == "win32":
            pytest.skip("there is no git here; test_a_persons_windows.py asks one")
        assert program is not None, "these tests need git"
        self.program = program
        self.config = home / "gitconfig"
        self.config.write_text(f"[user]\n\tname = Dev\n\temail = {EMAIL}\n", encoding="utf-8")
        self.environ = {
            **{name: os.environ[name] for name in ("SYSTEMROOT", "TMPDIR") if name in os.environ},
            "PATH": str(Path(program).parent),
            "HOME": str(home),
            "GIT_CONFIG_GLOBAL": str(self.config),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(home.parent),
        }

    def __call__(self, cwd: Path, *arguments: str) -> str:
        done = subprocess.run(
            [self.program, *arguments], cwd=cwd, env=self.environ, check=True, capture_output=True, encoding="utf-8"
        )
        return done.stdout.strip()

    def facts(self, cwd: Path | None, names: tuple[str, ...] = GIT_NAMES, **options: object) -> dict[str, object]:
        arguments: dict = {"environ": self.environ, "time_limit": PLENTY, **options}
        return run_properties(names, cwd=None if cwd is None else str(cwd), **arguments)


@pytest.fixture
def git(tmp_path: Path) -> Git:
    home = tmp_path / "home"
    home.mkdir()
    return Git(home)


@pytest.fixture
def empty_repository(tmp_path: Path, git: Git) -> Path:
    """Make a repository without commits or remote."""
    path = tmp_path / "home" / "widget"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    return path


@pytest.fixture
def repository(empty_repository: Path, git: Git) -> Path:
    """Make a repository with one commit and a remote."""
    (empty_repository / "file").write_text("content", encoding="utf-8")
    git(empty_repository, "add", "file")
    git(empty_repository, "commit", "--quiet", "--message=first")
    git(empty_repository, "remote", "add", "origin", "git@github.com:acme/widget.git")
    return empty_repository


@pytest.fixture
def head(repository: Path, git: Git) -> str:
    return git(repository, "rev-parse", "HEAD")
