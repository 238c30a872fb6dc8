"""`facts/installed.py` held beside `importlib.metadata`, and against the places that installers use."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from atotelemetry.facts.installed import install_method, installed_version

if TYPE_CHECKING:
    from pathlib import Path
from support_home import store


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Make an otherwise empty import path of one directory, and return that directory."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


def add(folder: Path, name: str = "widget-1.2.3.dist-info", **files: str) -> Path:
    """Install a distribution, so far as its metadata goes."""
    metadata = folder / name
    metadata.mkdir(parents=True)
    for file, content in files.items():
        (metadata / file.replace("_json", ".json")).write_text(content, encoding="utf-8")
    return metadata


class TestVersion:
    def test_like_importlib_metadata(self):
        """Every distribution that is installed here has the version that `importlib.metadata` reads."""
        installed = {item.name: item.version for item in importlib.metadata.distributions() if item.name}
        assert len(installed) > 10
        assert {name: installed_version(name) for name in installed} == {
            name: importlib.metadata.version(name) for name in installed
        }

    @pytest.mark.parametrize("app", ["my-app", "My.App", "my_app", "MY__app"])
    @pytest.mark.parametrize("name", ["my_app-1.0rc1.dist-info", "My.App-1.0rc1.dist-info", "my_app.egg-info"])
    def test_spellings(self, packages, app, name):
        """A distribution has one name in many spellings (PEP 503), in the directory's name, too."""
        metadata = "Metadata-Version: 2.1\nName: my-app\nVersion: 1.0rc1\n\nVersion: 9\n"
        add(packages, name, **{"PKG-INFO": metadata})
        assert installed_version(app) == "1.0rc1"

    @pytest.mark.parametrize("name", ["widget-1.2.3.egg-info", "widget-1.2.3-py3.11.egg-info"])
    def test_egg(self, packages, name):
        """The older metadata, whose name may end with the version of Python, has the version in its name, too."""
        add(packages, name)
        assert installed_version("widget") == "1.2.3"

    def test_the_first_one_counts(self, packages, tmp_path, monkeypatch):
        """Of two versions on the import path it is the one that an import finds first."""
        add(packages)
        add(tmp_path / "later", "widget-2.dist-info")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "absent"), "\0", *sys.path, str(tmp_path / "later")])
        assert installed_version("widget") == "1.2.3"

    @pytest.mark.parametrize("app", ["", "-", "widg", "widget2", "../packages/widget", "widget-1.2.3", "\0"])
    def test_nothing_of_that_name(self, packages, app):
        """A name that no distribution has is no version, and no path into the directory."""
        add(packages)
        add(packages, "-1.dist-info")
        assert installed_version(app) is None

    def test_source_tree(self, packages):
        """Metadata without any version says none."""
        add(packages, "widget.egg-info", **{"PKG-INFO": "Name: widget\n"})
        add(packages, "other.egg-info")
        assert (installed_version("widget"), installed_version("other")) == (None, None)

    def test_archive(self, tmp_path, monkeypatch):
        """An application that runs from an archive has the version of the metadata in there."""
        archive = tmp_path / "widget.pyz"
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr("widget-1.2.3.dist-info/METADATA", "Metadata-Version: 2.1\nName: widget\nVersion: 1.2.3\n")
        monkeypatch.setattr(sys, "path", [str(archive)])
        assert installed_version("widget") == "1.2.3"
        assert installed_version("gadget") is None


class TestInstallMethod:
    @pytest.mark.parametrize(
        ("place", "expected"),
        [
            ("home/.local/share/uv/tools/atopile/lib/python3.14/site-packages", "uv-tool"),
            ("home/.local/share/pipx/venvs/atopile/lib/python3.14/site-packages", "pipx"),
            ("opt/homebrew/lib/python3.14/site-packages", "brew"),
            ("usr/local/Cellar/atopile/0.15.9/libexec/lib/python3.14/site-packages", "brew"),
            ("Code/globalStorage/atopile.atopile/uv/tools/atopile/lib/python3.14/site-packages", "vsce-managed"),
            ("Code/globalStorage/atopile.atopile/site-packages", "pip"),
            ("home/project/.venv/lib/python3.14/site-packages", "pip"),
            ("home/uv/site-packages", "pip"),
        ],
    )
    def test_place(self, tmp_path, monkeypatch, place, expected):
        """Atopile's install method is told by the place of its metadata."""
        add(tmp_path / place, "atopile-0.15.9.dist-info")
        monkeypatch.setattr(sys, "path", [str(tmp_path / place)])
        assert install_method("atopile", {}) == expected

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ('{"dir_info": {"editable": true}, "url": "file:///home/dev/atopile"}', "dev"),
            ('{"url":"file:///home/dev/atopile","dir_info":{"editable":true}}', "dev"),
            ('{"dir_info": {"editable": false}, "url": "file:///home/dev/atopile"}', "pip"),
            ('{"dir_info": {}, "url": "file:///home/dev/atopile"}', "pip"),
            ("", "pip"),
        ],
    )
    def test_editable(self, packages, content, expected):
        """An editable install says so in direct_url.json (PEP 610)."""
        add(packages, "atopile-0.15.9.dist-info", direct_url_json=content)
        assert install_method("atopile", {}) == expected

    def test_variables(self, packages):
        """Playground and Docker image say so in the environment, which wins, the playground first."""
        add(packages, "atopile-0.15.9.dist-info", direct_url_json='{"dir_info": {"editable": true}}')
        assert install_method("atopile", {"ATO_PLAYGROUND": "1", "ATO_VIA_DOCKER": "1"}) == "playground"
        assert install_method("atopile", {"ATO_VIA_DOCKER": "1"}) == "docker"
        assert install_method("atopile", {"ATO_PLAYGROUND": "", "ATO_VIA_DOCKER": ""}) == "dev"

    def test_not_installed(self, packages):
        """An application without metadata came in some unknown way."""
        assert install_method("atopile", {}) == "unknown"

    @pytest.mark.parametrize("below", ["lib/python3.14/site-packages", "Lib/site-packages"])
    def test_others_in_a_virtual_environment(self, tmp_path, monkeypatch, below):
        """Another application in a virtual environment is in "venv", atopile as ever "pip"."""
        folder = tmp_path / "venv" / below
        for app in ("widget", "atopile"):
            add(folder, f"{app}-1.dist-info")
        store(tmp_path / "venv" / "pyvenv.cfg", "home = /usr/bin\n")
        monkeypatch.setattr(sys, "path", [str(folder)])
        assert (install_method("widget", {}), install_method("atopile", {})) == ("venv", "pip")

    def test_others_in_the_system(self, tmp_path, monkeypatch):
        """Another application in the interpreter's own directories, or in Debian's, is in "system"."""
        monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "usr"))
        places = ("usr/lib/python3.14/site-packages", "lib/python3/dist-packages", "home/.local/lib/site-packages")
        found = []
        for place in places:
            add(tmp_path / place)
            monkeypatch.setattr(sys, "path", [str(tmp_path / place)])
            found.append(install_method("widget", {}))
        assert found == ["system", "system", "pip"]

    @pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
    def test_this_environment(self):
        """The tests' own packages are in a virtual environment, and this project is installed for development."""
        assert install_method("pytest", {}) == "venv"
        assert install_method("atotelemetry", {}) == "dev"


def test_the_path_of_another_process(tmp_path):
    """The sender looks where the host imports from, also into the host's archives."""
    add(tmp_path / "here", direct_url_json='{"dir_info": {"editable": true}}')
    path = [str(tmp_path / "here")]
    assert (installed_version("widget", path), install_method("widget", {}, path)) == ("1.2.3", "dev")
    archive = tmp_path / "gadget.pyz"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("gadget-3.dist-info/METADATA", "Metadata-Version: 2.1\nName: gadget\nVersion: 3\n")
    assert installed_version("gadget", [str(archive)]) == "3"
    assert installed_version("pytest", path) is None
