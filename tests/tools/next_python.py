"""Runs a command in a copy of this checkout, with Pythons that the machine does not have.

    python3 tests/tools/next_python.py 3.14 3.15 -- make test

They come from Debian's unstable suite, installed into a directory of their own that is used as a chroot. Nothing of the
machine changes, and its mounts live in a mount namespace that ends with the command. It needs root on a Debian system
with debootstrap, and the first time some minutes. The command finds the version in PYTHON, as the Makefile takes it.

NEXT_PYTHON_ROOT names the directory; it may be deleted at any time. One call at a time uses it.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
# Installed together, whichever is asked for: a root that lacks one is made anew.
VERSIONS = ("3.14", "3.15")
PACKAGES = ("ca-certificates", "git", "make", "procps", "util-linux")
# How pip and uv find their index, through which proxy, and whose certificates they trust.
SETTINGS = (
    "PIP_",
    "UV_",
    "SSL_CERT_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/uv/uv.toml", "/etc/ssl/certs/ca-certificates.crt")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
CLONE_NEWNS = 0x00020000  # sched.h
MS_PRIVATE, MS_REC, MS_BIND = 1 << 18, 1 << 14, 1 << 12  # sys/mount.h

libc = ctypes.CDLL(None, use_errno=True)


class NotHere(Exception):
    """This machine cannot do it; the text says why."""


def main() -> int:
    """Run the command with each version in turn; return the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="+", help="such as 3.14")
    separator = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    versions = parser.parse_args(sys.argv[1:separator]).version
    command = sys.argv[separator + 1 :] or ["make", "test"]
    try:
        check_machine()
        root = Path(os.environ.get("NEXT_PYTHON_ROOT") or "/var/cache/atotelemetry-next-python")
        root.mkdir(parents=True, exist_ok=True)
        with (root.parent / f"{root.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            install(root, versions)
            enter_namespace()
            mount_all(root)
            for version in versions:
                copy_project(root)
                code = run(root, version, command)
                if code:
                    return code
    except NotHere as reason:
        print(f"next_python: cannot run here: {reason}", file=sys.stderr)
        return 69  # EX_UNAVAILABLE of sysexits.h
    return 0


def check_machine() -> None:
    """Raise `NotHere` on a machine that cannot have such a root."""
    if sys.platform != "linux" or not Path("/etc/debian_version").exists():
        raise NotHere("it needs a Debian system")
    if os.geteuid() != 0:
        raise NotHere("it needs root, for a chroot and its mounts")
    if shutil.which("debootstrap") is None:
        raise NotHere("it needs debootstrap (apt-get install debootstrap)")


def install(root: Path, versions: list[str]) -> None:
    """Make the root, or a new one where a version is missing."""
    if all((root / f"usr/bin/python{version}").exists() for version in versions):
        return
    wanted = [
        *PACKAGES,
        *(f"python{version}{part}" for version in dict.fromkeys((*VERSIONS, *versions)) for part in ("", "-venv")),
    ]
    shutil.rmtree(root, ignore_errors=True)
    print(f"next_python: installing into {root}", file=sys.stderr)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(wanted)}", "sid", str(root), mirror()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise NotHere("debootstrap failed:\n" + "\n".join(done.stdout.splitlines()[-5:]))


def mirror() -> str:
    """Return the Debian archive that this machine's own packages come from."""
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    addresses = [line.partition(" ")[2] for line in listed.splitlines() if line.startswith("Debian ")]
    archives = [address for address in addresses if address.rstrip("/").endswith("/debian")]
    if not archives:
        raise NotHere("no Debian archive among the package sources (apt-get update may be missing)")
    return archives[0]


def enter_namespace() -> None:
    """Take a mount namespace of our own, from which no mount gets out and which ends with us."""
    if libc.unshare(CLONE_NEWNS) != 0:
        raise NotHere(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    mount("none", Path("/"), "", MS_REC | MS_PRIVATE)


def mount(source: str, target: Path, kind: str, flags: int = 0, options: str = "") -> None:
    if libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()) != 0:
        raise NotHere(f"{target} cannot be mounted: {os.strerror(ctypes.get_errno())}")


def mount_all(root: Path) -> None:
    """Mount the filesystems that programs expect."""
    mount("proc", root / "proc", "proc")
    mount("/sys", root / "sys", "", MS_BIND | MS_REC)
    mount("tmpfs", root / "tmp", "tmpfs", 0, "mode=1777")
    mount("tmpfs", root / "dev", "tmpfs", 0, "mode=755")
    for name in DEVICES:
        (root / "dev" / name).touch()
        mount(f"/dev/{name}", root / "dev" / name, "", MS_BIND)
    for name, kind, options in (("pts", "devpts", "newinstance,ptmxmode=0666"), ("shm", "tmpfs", "mode=1777")):
        (root / "dev" / name).mkdir()
        mount(kind, root / "dev" / name, kind, 0, options)
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd")):
        (root / "dev" / name).symlink_to(target)


def copy_project(root: Path) -> None:
    """Copy what git knows or would add, committed or not, into a repository of the root's."""
    target = root / "project"
    shutil.rmtree(target, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout
    for name in filter(None, map(os.fsdecode, listed.split(b"\0"))):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
    for file in FILES:
        if Path(file).is_file():
            (root / file[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / file[1:])


def run(root: Path, version: str, command: list[str]) -> int:
    """Run the command in the root; return its exit code."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}
    environment = {
        **kept,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
        "PYTHON": version,
        "BOOTSTRAP_PYTHON": f"python{version}",
        "PYTEST_ARGS": os.environ.get("PYTEST_ARGS", ""),
    }

    def enter() -> None:
        os.chroot(root)
        os.chdir("/project")

    inside = ["sh", "-c", 'git init --quiet . && exec "$@"', "sh", *command]
    return subprocess.run(inside, env=environment, preexec_fn=enter, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
