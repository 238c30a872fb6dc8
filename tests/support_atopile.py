"""Programs written like atopile's (`hosts_like_atopile`), and the repository that they run in."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support_home import store

if TYPE_CHECKING:
    from support_hosts import Host, Hosts

PROGRAMS = Path(__file__).parent / "hosts_like_atopile"
PROJECT = "github.com/acme/widget"
GIT_EMAIL = "dev@acme.example"

# What DESIGN.md, section 10, lists: on every event, whatever its name, also where the value is not known. `Ato` knows
# the version; the others without a value here differ from run to run.
RUN = {
    "duration": None,
    "run_id": None,
    "current_git_hash": None,
    "email": GIT_EMAIL,
    "project_id": hashlib.sha256(PROJECT.encode()).hexdigest(),
    "ci_provider": None,
    "platform": sys.platform,
    "via_docker": False,
    "via_vsce": False,
    "install_method": "pip",
    "github_action_repository": None,
    "github_repository_owner": None,
    "github_repository": None,
    "atopile_version": None,
    # What atopile does not have, about who runs it and on what.
    "agent": None,
    "$arch": platform.machine(),
    "is_tty": False,
}


class Ato:
    """One of the programs, installed so far as its metadata goes, a repository to run it in, and what arrived."""

    def __init__(self, hosts: Hosts, program: str, version: str) -> None:
        self.hosts = hosts
        self.server = hosts.server
        self.run_properties = RUN | {"atopile_version": version}
        self.config = hosts.home / ".config" / "atopile" / "telemetry.yaml"
        self.repository = hosts.directory / "widget"
        self.repository.mkdir()
        self.packages = hosts.directory / "packages"
        metadata = f"Metadata-Version: 2.1\nName: atopile\nVersion: {version}\n"
        store(self.packages / f"atopile-{version}.dist-info" / "METADATA", metadata)
        path = [str(PROGRAMS / program), str(self.packages), hosts.environment.get("PYTHONPATH", "")]
        hosts.environment |= {
            "PYTHONPATH": os.pathsep.join(entry for entry in path if entry),
            "ATO_SERVICES_TELEMETRY_URL": hosts.server.url,
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "init.defaultBranch=main", *arguments]
        environment = self.hosts.environment
        done = subprocess.run(command, cwd=self.repository, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def make_repository(self) -> str:
        """Make a repository with a remote, a person and a commit; return the commit's name."""
        self.git("init", "--quiet")
        self.git("config", "user.email", GIT_EMAIL)
        self.git("config", "user.name", "Dev")
        self.git("remote", "add", "origin", "git@github.com:acme/widget.git")
        self.git("commit", "--quiet", "--allow-empty", "--no-gpg-sign", "--message", "first")
        return self.git("rev-parse", "HEAD")

    def start(self, *arguments: str, cwd: Path | None = None, **environment: str) -> Host:
        """Start a command, by default in the repository."""
        command = [sys.executable, "-m", "atopile", *arguments]
        return self.hosts.start_command(command, cwd=cwd or self.repository, environment=environment)

    def run(self, *arguments: str, **options: Any) -> tuple[int, str, str]:
        """Run a command to its end and its senders to theirs; `options` are those of `start`."""
        done = self.start(*arguments, **options).finish()
        self.hosts.wait_until_no_sender()
        return done[:3]

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Wait for events of these names; return them in their order, each once, with no other."""
        self.hosts.assert_arrived_once(*names)
        by_name = {event["event"]: event for event in self.server.events}
        return [by_name[name] for name in names]
