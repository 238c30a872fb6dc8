"""One bug is one issue, however the CLI was installed and started, and whoever's home it lies in.

A small CLI is installed with pip into fresh environments: as a wheel, and editable. It is also run as a module and as a
zip file. Nothing is downloaded: pip is the wheel that comes with Python, and the package builds itself.
"""

from __future__ import annotations

import ensurepip
import glob
import json
import os
import subprocess
import sysconfig
import textwrap
import venv
import zipapp
from pathlib import Path

import pytest

import atotelemetry
from atotelemetry.testing import CaptureServer
from support_posthog_rules import check_exception_properties, fingerprint, in_app

pytestmark = pytest.mark.posix("the layout of an environment that pip installs into")

FILES = {
    "pyproject.toml": """
        [build-system]
        requires = []
        build-backend = "backend"
        backend-path = ["."]
        [project]
        name = "my-tool"
        version = "1.0"
    """,
    "backend.py": """
        import os, zipfile
        INFO = "my_tool-1.0.dist-info/"
        META = "Metadata-Version: 2.1\\nName: my-tool\\nVersion: 1.0\\n"
        WHEEL = "Wheel-Version: 1.0\\nGenerator: here\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        def _wheel(directory, files):
            name = "my_tool-1.0-py3-none-any.whl"
            files = {**files, INFO + "METADATA": META, INFO + "WHEEL": WHEEL,
                     INFO + "entry_points.txt": "[console_scripts]\\nmytool = mytool.cli:main\\n"}
            with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
                for path, text in files.items():
                    wheel.writestr(path, text)
                wheel.writestr(INFO + "RECORD", "".join(f"{path},,\\n" for path in [*files, INFO + "RECORD"]))
            return name
        def build_wheel(directory, settings=None, metadata=None):
            return _wheel(directory, {f"mytool/{n}": open(f"src/mytool/{n}").read() for n in os.listdir("src/mytool")
                                      if n.endswith(".py")})
        def build_editable(directory, settings=None, metadata=None):
            return _wheel(directory, {"my_tool.pth": os.path.abspath("src") + "\\n"})
    """,
    "src/mytool/__init__.py": "",
    "src/mytool/__main__.py": "from mytool.cli import main\nmain()\n",
    "src/mytool/telemetry.py": """
        import os
        from atotelemetry import Telemetry
        telemetry = Telemetry(app="my-tool", api_key="phc_test", host=os.environ["SERVER"], report_uncaught=True)
    """,
    "src/mytool/cli.py": """
        import sys
        from mytool import core
        from mytool.telemetry import telemetry
        def main():
            how = sys.argv[1]
            if how == "block":
                run("one")
            else:
                core.run(how)
        @telemetry.capture("start", "end")
        def run(how):
            core.run(how)
    """,
    "src/mytool/core.py": """
        def run(how):
            if how == "one":
                return first({})
            return second({})
        def first(table):
            return table["missing"]
        def second(table):
            return sorted([table], key=lambda row: row["missing"])
    """,
}


def find_pip():
    """Return the wheel of pip that comes with Python, or skip."""
    folders = [Path(ensurepip.__file__).parent / "_bundled", sysconfig.get_config_var("WHEEL_PKG_DIR") or "/none"]
    wheels = [path for folder in folders for path in glob.glob(f"{folder}/pip-*.whl")]
    return wheels[0] if wheels else pytest.skip("this Python comes without pip")


class Home:
    """A person's home directory, with the CLI in an environment of its own."""

    def __init__(self, path, pip, *, editable):
        self.path = path
        source = path / "my tool"
        for name, text in FILES.items():
            file = source / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        venv.create(path / "venv", symlinks=os.name != "nt")
        self.bin = path / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / "python"
        arguments = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-input"]
        subprocess.run(
            [self.python, "-m", "pip", *arguments, *(["-e"] if editable else []), str(source)],
            env={**self.environment(), "PYTHONPATH": pip, "PIP_NO_CACHE_DIR": "1"},
            check=True, timeout=120, capture_output=True,
        )  # fmt: skip
        # What the CLI depends on is where the tests have it.
        places = [os.path.dirname(os.path.dirname(atotelemetry.__file__)), sysconfig.get_path("purelib")]
        (site,) = glob.glob(f"{path}/venv/[Ll]ib/**/site-packages", recursive=True)
        Path(site, "dependencies.pth").write_text("\n".join(places))
        zipapp.create_archive(source / "src", path / "mytool.pyz", main="mytool.cli:main")

    def environment(self):
        known = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP") if name in os.environ}
        return {
            **known,
            "HOME": str(self.path),
            "USERPROFILE": str(self.path),
            "MY_TOOL_TELEMETRY": "on",
            "POSTHOG_RELEASE_ID": "r1",
        }

    def commands(self):
        return {
            "script": [self.bin / "mytool"],
            "module": [self.python, "-m", "mytool"],
            "zip": [self.python, self.path / "mytool.pyz"],
        }


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    pip = find_pip()
    return {
        "alice": Home(tmp_path_factory.mktemp("home") / "alice", pip, editable=False),
        "bob": Home(tmp_path_factory.mktemp("Users") / "work" / "bob", pip, editable=True),
    }


def events(homes, bug):
    """Let the CLI fail in every home and in every way; yield what arrived."""
    for name, home in homes.items():
        for way, command in home.commands().items():
            with CaptureServer() as server:
                environment = {**home.environment(), "SERVER": server.url}
                done = subprocess.run(
                    [*command, bug],
                    env=environment,
                    cwd=home.path,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert done.returncode == 1, done.stderr
                assert done.stderr.endswith("KeyError: 'missing'\n"), done.stderr
                (event,) = [
                    each for each in server.wait_for_events(1 + (bug == "block")) if each["event"] == "$exception"
                ]
            yield f"{name}'s {way}", home, event["properties"]


def test_one_bug_is_one_issue_and_two_are_two(homes):
    """Wheel, editable, zip, `python -m` and script, in two homes: the same fingerprint for each of two bugs."""
    told = {}
    for bug, function in (("one", "first"), ("two", "<lambda>")):
        for way, home, properties in events(homes, bug):
            check_exception_properties(properties)
            (entry,) = properties["$exception_list"]
            frames = entry["stacktrace"]["frames"]
            last = frames[-1]
            assert (last["function"], last["filename"], last["module"]) == (
                function,
                "mytool/core.py",
                "mytool.core",
            ), way
            assert last["pre_context"], way
            assert next(frame["function"] for frame in frames if in_app(frame)) == "main", way
            assert (entry["mechanism"]["handled"], properties["$exception_level"]) == (False, "fatal")
            text = json.dumps({name: value for name, value in properties.items() if name.startswith("$exception")})
            assert str(home.path) not in text, way
            release = [properties.get(name) for name in ("$app_namespace", "$app_version", "$release_id")]
            assert release == ["my-tool", "1.0", "r1"], way
            told.setdefault(bug, {})[way] = fingerprint(properties)
    assert len(set(told["one"].values())) == 1, told
    assert len(set(told["two"].values())) == 1, told
    assert set(told["one"].values()) != set(told["two"].values())


def test_a_block_sees_the_same(homes):
    """A bug that leaves a block has one fingerprint, too: its stack begins at the block, without our decorator."""
    told = set()
    for _, _, properties in events(homes, "block"):
        frames = properties["$exception_list"][0]["stacktrace"]["frames"]
        assert [frame["function"] for frame in frames] == ["run", "run", "first"]
        told.add(fingerprint(properties))
    assert len(told) == 1
