"""`facts/git.py` against real repositories and a real git with hostile configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from atotelemetry.facts import git as git_module
from atotelemetry.facts.git import normalise_remote
from atotelemetry.facts.run import RUN_PROPERTIES, run_properties
from support_git import EMAIL, GIT_NAMES, NO_GIT_FACTS, PLENTY, WIDGET, posix_only


class TestRepositories:
    def test_repository(self, git, repository, head):
        """In a repository all three facts of git are known."""
        assert git.facts(repository) == {"email": EMAIL, "current_git_hash": head, "project_id": WIDGET}

    def test_subdirectory(self, git, repository, head):
        """A subdirectory belongs to its repository."""
        below = repository / "a" / "b"
        below.mkdir(parents=True)
        assert git.facts(below) == {"email": EMAIL, "current_git_hash": head, "project_id": WIDGET}

    def test_worktree(self, git, repository, tmp_path):
        """A worktree has its own commit and the repository's remote."""
        tree = tmp_path / "tree"
        git(repository, "worktree", "add", "--quiet", "-b", "other", str(tree))
        git(tree, "commit", "--quiet", "--allow-empty", "--message=second")
        facts = git.facts(tree)
        assert facts["current_git_hash"] == git(tree, "rev-parse", "HEAD") != git(repository, "rev-parse", "HEAD")
        assert facts["project_id"] == WIDGET

    def test_submodule(self, git, repository, tmp_path, head):
        """Inside a submodule the facts are the submodule's."""
        outer = tmp_path / "home" / "outer"
        outer.mkdir()
        git(outer, "init", "--quiet")
        git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "inner")
        git(outer, "remote", "add", "origin", "https://github.com/acme/outer")
        git(outer / "inner", "remote", "set-url", "origin", "https://github.com/acme/widget")
        git(outer / "inner", "config", "user.email", "inner@example.org")
        facts = git.facts(outer / "inner")
        assert facts == {"email": "inner@example.org", "current_git_hash": head, "project_id": WIDGET}

    def test_bare(self, git, repository, tmp_path, head):
        """A bare repository has facts like any other."""
        bare = tmp_path / "home" / "bare.git"
        git(repository, "clone", "--quiet", "--bare", str(repository), str(bare))
        git(bare, "remote", "set-url", "origin", "https://github.com/acme/widget.git")
        assert git.facts(bare) == {"email": EMAIL, "current_git_hash": head, "project_id": WIDGET}

    def test_sha256(self, git, tmp_path):
        """A repository of SHA-256 objects has a longer hash."""
        path = tmp_path / "home" / "long"
        path.mkdir()
        git(path, "init", "--quiet", "--object-format=sha256")
        git(path, "commit", "--quiet", "--allow-empty", "--message=first")
        value = git.facts(path)["current_git_hash"]
        assert value == git(path, "rev-parse", "HEAD")
        assert len(value) == 64

    def test_detached(self, git, repository, head):
        """A detached HEAD is a commit too."""
        git(repository, "checkout", "--quiet", "--detach")
        assert git.facts(repository)["current_git_hash"] == head

    def test_no_commits_and_no_remote(self, git, empty_repository):
        """A repository without commits or remote has neither hash nor project, and says so with None."""
        assert git.facts(empty_repository) == {"email": EMAIL, "current_git_hash": None, "project_id": None}

    def test_other_remote(self, git, empty_repository):
        """The project is that of `origin` and of no other remote."""
        git(empty_repository, "remote", "add", "upstream", "https://github.com/acme/widget")
        assert git.facts(empty_repository)["project_id"] is None

    def test_outside(self, git, tmp_path):
        """Outside a repository there is git's `user.email` and nothing else."""
        outside = tmp_path / "home" / "outside"
        outside.mkdir()
        assert git.facts(outside) == {**NO_GIT_FACTS, "email": EMAIL}

    def test_nothing_configured(self, git, tmp_path):
        """Without any configuration no fact is known."""
        git.config.write_text("", encoding="utf-8")
        assert git.facts(tmp_path) == NO_GIT_FACTS

    def test_email_of_the_repository(self, git, repository):
        """The repository's own `user.email` wins over the person's."""
        git(repository, "config", "user.email", "widget@example.org")
        assert git.facts(repository)["email"] == "widget@example.org"

    @pytest.mark.parametrize("lines", ["[user]\n\temail\n", "[user]\n\temail =\n"])
    def test_email_without_value(self, git, repository, lines):
        """An empty `user.email` is not known."""
        with (repository / ".git" / "config").open("a", encoding="utf-8") as config:
            config.write(lines)
        facts = git.facts(repository)
        assert "email" not in facts
        assert facts["project_id"] == WIDGET

    def test_several_urls(self, git, repository):
        """Of several URLs of `origin`, the first one, from which git fetches, is the project."""
        git(repository, "config", "--add", "remote.origin.url", "https://example.org/mirror")
        assert git.facts(repository)["project_id"] == WIDGET

    def test_abbreviated_url(self, git, repository):
        """A URL that the configuration abbreviates (`insteadOf`) is the project that it stands for."""
        git(repository, "config", "--global", "url.https://user:secret@github.com/.insteadOf", "gh:")
        git(repository, "config", "--global", "url.https://github.com/acme/.insteadOf", "gh:a/")
        git(repository, "remote", "set-url", "origin", "gh:acme/widget")
        assert git.facts(repository)["project_id"] == WIDGET
        git(repository, "remote", "set-url", "origin", "gh:a/widget")
        assert git.facts(repository)["project_id"] == WIDGET

    def test_local_remote(self, git, repository, tmp_path):
        """A remote that is a path on this disk makes no project."""
        git(repository, "remote", "set-url", "origin", str(tmp_path))
        assert git.facts(repository)["project_id"] is None

    def test_hook(self, git, repository, head, tmp_path):
        """Run by a hook, where GIT_DIR says which repository it is, the facts are that repository's."""
        elsewhere = tmp_path / "home" / "elsewhere"
        elsewhere.mkdir()
        environ = {**git.environ, "GIT_DIR": str(repository / ".git")}
        assert git.facts(elsewhere, environ=environ)["current_git_hash"] == head

    def test_no_working_directory(self, git, tmp_path):
        """A working directory that is unknown, deleted or impossible has no facts of git."""
        assert git.facts(None) == NO_GIT_FACTS
        assert git.facts(tmp_path / "deleted") == NO_GIT_FACTS
        assert git.facts(tmp_path / "im\0possible") == NO_GIT_FACTS

    def test_relative_working_directory(self, git, repository, monkeypatch):
        """A working directory that is relative to something unknown is not guessed at."""
        monkeypatch.chdir(repository.parent)
        assert run_properties(GIT_NAMES, cwd="widget", environ=git.environ) == NO_GIT_FACTS

    def test_bytes_that_are_no_text(self, git, repository):
        """An email in some old encoding is replaced where it must be, and can be encoded as JSON."""
        with (repository / ".git" / "config").open("ab") as config:
            config.write(b"[user]\n\temail = j\xf6rg@example.org\n")
        assert git.facts(repository)["email"] == "j\ufffdrg@example.org"

    def test_huge_configuration(self, git, repository):
        """Configuration of an absurd size is not carried onto events, nor read to its end."""
        with (repository / ".git" / "config").open("a", encoding="utf-8") as config:
            config.writelines(f"[user]\n\temail = {'x' * 1000}{number}\n" for number in range(70))
        assert git.facts(repository, ("email",)) == {}


class TestWhichGit:
    def test_no_git(self, git, repository):
        """Where git is not installed its facts are None, and the others are there."""
        facts = run_properties(
            RUN_PROPERTIES, cwd=str(repository), environ={"CI": "1"}, app_version="1", time_limit=PLENTY
        )
        assert facts == {**facts, **NO_GIT_FACTS, "ci_provider": "Other", "atopile_version": "1"}

    @posix_only
    def test_never_from_the_working_directory(self, git, repository, tmp_path, monkeypatch):
        """A program named git in the working directory is not run, whatever PATH says."""
        ran = tmp_path / "ran"
        planted = repository / "git"
        planted.write_text(f"#!/bin/sh\ntouch '{ran}'\n", encoding="utf-8")
        planted.chmod(0o755)
        monkeypatch.chdir(repository)
        path = os.pathsep.join(["", ".", str(repository), f"{repository}/."])
        for environ in (
            {**git.environ, "PATH": path},
            {**git.environ, "PATH": f"{path}{os.pathsep}{git.environ['PATH']}"},
        ):
            git.facts(repository, environ=environ)
        assert not ran.exists()
        assert git.facts(repository, environ=environ)["email"] == EMAIL

    @posix_only
    def test_not_a_program(self, git, repository, tmp_path):
        """A folder or a text file of that name is passed over; one that only looks like a program is no git."""
        for name in ("folder", "text", "broken"):
            (tmp_path / name).mkdir()
        (tmp_path / "folder" / "git").mkdir()
        (tmp_path / "text" / "git").write_text("text", encoding="utf-8")
        (tmp_path / "broken" / "git").write_bytes(b"\x7fELF nothing")
        (tmp_path / "broken" / "git").chmod(0o755)
        path = os.pathsep.join([str(tmp_path / "folder"), str(tmp_path / "text"), git.environ["PATH"]])
        assert git.facts(repository, environ={**git.environ, "PATH": path})["email"] == EMAIL
        environ = {**git.environ, "PATH": str(tmp_path / "broken")}
        assert git.facts(repository, environ=environ) == NO_GIT_FACTS

    @posix_only
    def test_failing_git(self, git, repository, tmp_path):
        """What a git said that failed or said far too much, or what is no commit's name, is not believed."""
        fake = tmp_path / "git"
        environ = {**git.environ, "PATH": str(tmp_path)}
        record = "user.email\\nhalf@example\\0"
        name = "a" * 40
        answers = (
            (f"printf '{record}'; exit 1", "email", None),
            (f"printf '{record}'; exit 0", "email", "half@example"),
            (f"printf '{record}%70000s' ''; exit 0", "email", None),
            (f"echo {name}; exit 1", "current_git_hash", None),
            (f"echo {name}; exit 0", "current_git_hash", name),
            (f"echo {name[1:]}; exit 0", "current_git_hash", None),
            (f"echo {name[1:]}z; exit 0", "current_git_hash", None),
        )
        for script, fact, expected in answers:
            fake.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            fake.chmod(0o755)
            assert git.facts(repository, (fact,), environ=environ).get(fact) == expected

    @posix_only
    def test_mac_shim(self, git, repository, monkeypatch, tmp_path):
        """On a Mac without developer tools the shim that would open a dialogue is not run."""
        shim, tool = tmp_path / "git", tmp_path / "tools" / "git"
        shim.write_text("#!/bin/sh\ntouch run\n", encoding="utf-8")
        shim.chmod(0o755)
        monkeypatch.setattr(git_module, "_MAC_SHIM", str(shim))
        monkeypatch.setattr(git_module, "_MAC_GITS", (str(tmp_path / "absent"), str(tool)))
        environ = {**git.environ, "PATH": str(tmp_path)}
        with monkeypatch.context() as only_here:
            only_here.setattr(sys, "platform", "darwin")
            without_tools = git.facts(repository, environ=environ)
            tool.parent.mkdir()
            tool.symlink_to(git.program)
            with_tools = git.facts(repository, environ=environ)
        assert (without_tools, with_tools["email"]) == (NO_GIT_FACTS, EMAIL)
        assert not (repository / "run").exists()

    @posix_only
    def test_command(self, git, repository, tmp_path):
        """Git is asked twice, without locks, prompts, pager or network, and traces of the person's stay untouched."""
        log, trace = tmp_path / "log", tmp_path / "trace"
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "git").write_text(
            f'#!/bin/sh\n{{ echo "$@"; env | grep "^GIT_"; }} >>"{log}"\nexec "{git.program}" "$@"\n', encoding="utf-8"
        )
        (folder / "git").chmod(0o755)
        environ = {
            **git.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "GIT_TRACE": str(trace),
            "GIT_TRACE2_EVENT": str(trace),
            "GIT_CONFIG": os.devnull,
            "GIT_OPTIONAL_LOCKS": "1",
        }
        assert git.facts(repository, environ=environ)["email"] == EMAIL
        lines = log.read_text(encoding="utf-8").splitlines()
        assert sum(line.startswith("--no-pager -C ") for line in lines) == 2
        for setting in ("GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GIT_PAGER=cat", "GIT_NO_LAZY_FETCH=1"):
            assert lines.count(setting) == 2
        assert not any(line.startswith(("GIT_TRACE=", "GIT_CONFIG=")) for line in lines)
        assert not trace.exists()

    @pytest.mark.parametrize("target", ["normalTarget", "eventTarget", "perfTarget"])
    def test_traces_that_the_configuration_asks_for(self, git, repository, tmp_path, target):
        """Git's configuration can ask for a trace of every command, too: ours are not in it."""
        trace = tmp_path / "trace"
        git(repository, "config", "--global", f"trace2.{target}", str(trace))
        trace.unlink(missing_ok=True)
        git(repository, "--version")
        assert trace.exists()
        trace.unlink()
        assert git.facts(repository)["email"] == EMAIL
        assert not trace.exists()

    @posix_only
    def test_planted_program(self, git, repository, tmp_path):
        """A program of that name in the host's directory is not run, by whatever name PATH calls that directory."""
        ran = tmp_path / "ran"
        (repository / "git").write_text(f'#!/bin/sh\ntouch "{ran}"\n', encoding="utf-8")
        (repository / "git").chmod(0o755)
        link = tmp_path / "link"
        link.symlink_to(repository)
        for entry in (repository, link, f"{repository}/.", repository / "sub" / ".."):
            environ = {**git.environ, "PATH": f"{entry}{os.pathsep}{git.environ['PATH']}"}
            assert git.facts(repository, environ=environ)["email"] == EMAIL
        assert not ran.exists()


@posix_only
def test_hostile_configuration(git, repository, head, tmp_path):
    """Nothing that a repository's configuration names is run: fsmonitor, hooks, pagers, aliases, helpers, filters."""
    ran = tmp_path / "ran"
    trap = tmp_path / "trap"
    trap.write_text(f'#!/bin/sh\necho "$0 $@" >>"{ran}"\nexit 1\n', encoding="utf-8")
    trap.chmod(0o755)
    hooks = repository / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-index-change", "fsmonitor-watchman", "reference-transaction", "post-checkout"):
        (hooks / name).symlink_to(trap)
    (repository / ".gitattributes").write_text("* filter=trap diff=trap\n", encoding="utf-8")
    settings = {
        "core.fsmonitor": str(trap),
        "core.hooksPath": str(hooks),
        "core.pager": str(trap),
        "core.editor": str(trap),
        "core.askPass": str(trap),
        "core.sshCommand": str(trap),
        "core.gitProxy": str(trap),
        "core.alternateRefsCommand": str(trap),
        "core.untrackedCache": "true",
        "pager.config": str(trap),
        "pager.rev-parse": str(trap),
        "alias.config": f"!{trap}",
        "alias.rev-parse": f"!{trap}",
        "credential.helper": f"!{trap}",
        "diff.external": str(trap),
        "diff.trap.textconv": str(trap),
        "filter.trap.clean": str(trap),
        "filter.trap.smudge": str(trap),
        "gpg.program": str(trap),
        "interactive.diffFilter": str(trap),
        "protocol.ext.allow": "always",
        "remote.evil.url": f"ext::{trap}",
        "remote.evil.promisor": "true",
        "remote.evil.uploadpack": str(trap),
        "remote.origin.uploadpack": str(trap),
        "trace2.eventTarget": str(ran),
    }
    for key, value in settings.items():
        git(repository, "config", key, value)
    # A partial clone that lacks every object: whoever looks one up makes git ask the remote's helper for it.
    git(repository, "config", "core.repositoryFormatVersion", "1")
    git(repository, "config", "extensions.partialClone", "evil")
    shutil.rmtree(repository / ".git" / "objects")
    (repository / ".git" / "objects" / "pack").mkdir(parents=True)
    ran.unlink(missing_ok=True)

    assert git.facts(repository) == {"email": EMAIL, "current_git_hash": head, "project_id": WIDGET}
    assert not ran.exists()

    # The trap is one: a command that reads the index and the objects walks into it.
    # Without a network, so that what it starts ends with it.
    subprocess.run(
        [git.program, "status"],
        cwd=repository,
        env={**git.environ, "GIT_ALLOW_PROTOCOL": "none"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert ran.exists()


class TestNormaliseRemote:
    @pytest.mark.parametrize(
        "url",
        [
            "git@github.com:acme/widget.git",
            "git@github.com:acme/widget",
            "github.com:acme/widget.git",
            "git@github.com:/acme/widget.git/",
            "git@GitHub.com:acme/widget",
            "[git@github.com:2222]:acme/widget.git",
            "git@[github.com]:acme/widget",
            "https://github.com/acme/widget.git",
            "https://github.com/acme/widget",
            "https://github.com/acme/widget/",
            "https://github.com/acme/widget.git/",
            "https://github.com//acme//widget",
            "HTTPS://GitHub.COM/acme/widget",
            "https://github.com./acme/widget",
            "https://github.com:443/acme/widget.git",
            "https://user@github.com/acme/widget",
            "https://user:secret@github.com/acme/widget.git",
            "https://user:se:c@ret@github.com:8443/acme/widget.git",
            "https://github.com/acme/widget.git?token=secret#here",
            "http://github.com/acme/widget",
            "ssh://git@github.com/acme/widget.git",
            "ssh://git@github.com:22/acme/widget.git",
            "git+ssh://git@github.com/acme/widget",
            "git://github.com/acme/widget.git",
            "  https://github.com/acme/widget\n",
        ],
    )
    def test_one_project(self, url):
        """Every way to write it is the same project, without credentials, port or case of the host."""
        assert normalise_remote(url) == "github.com/acme/widget"

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("git@gitlab.com:Group/Sub/Widget.git", "gitlab.com/Group/Sub/Widget"),
            ("https://dev.azure.com/org/My%20Project/_git/widget", "dev.azure.com/org/My%20Project/_git/widget"),
            ("ssh://git@[2001:DB8::1]:2222/acme/widget.git", "[2001:db8::1]/acme/widget"),
            ("git@[2001:db8::1]:acme/widget.git", "[2001:db8::1]/acme/widget"),
            ("[2001:db8::1]:acme/widget", "[2001:db8::1]/acme/widget"),
            ("git@host:~dev/widget", "host/~dev/widget"),
            ("ssh://host/~dev/widget", "host/~dev/widget"),
            ("https://github.com/acme/widget.github.io", "github.com/acme/widget.github.io"),
            ("https://github.com/acme/widget.git.git", "github.com/acme/widget.git"),
            ("git@host:acme/widget/.git", "host/acme/widget"),
            ("git@host:acme/@scope/widget", "host/acme/@scope/widget"),
        ],
    )
    def test_others(self, url, expected):
        """Host and path stay as they are otherwise."""
        assert normalise_remote(url) == expected

    @pytest.mark.parametrize(
        "url",
        [
            "",
            " ",
            "widget",
            "/home/dev/widget.git",
            "./widget",
            "../widget",
            "~/widget",
            "./a:b/widget",
            "C:/Users/dev/widget",
            "C:\\Users\\dev\\widget",
            "\\\\server\\share\\widget",
            "file:///home/dev/widget.git",
            "FILE://server/widget",
            "ext::sh -c run% me",
            "codecommit::eu-west-1://widget",
            "codecommit://widget",
            "https://",
            "https:///acme/widget",
            "https://github.com",
            "https://github.com/",
            "https://github.com/.git",
            "https://user:sec/ret@github.com/acme/widget",
            "https://exa mple.org/widget",
            "https://[::1/widget",
            "https://[]/widget",
            "https://[::1]x/widget",
            "https://[zone%eth0]/widget",
            "user:secret@github.com:acme/widget",
            "front[::1]:acme/widget",
            ":acme/widget",
            "git@:acme/widget",
            "git@github.com:",
        ],
    )
    def test_no_project(self, url):
        """What is local, no address at all, or malformed in a way that could hold a secret is no project."""
        assert normalise_remote(url) is None
