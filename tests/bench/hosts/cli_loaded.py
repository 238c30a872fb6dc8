"""The typer program again, after it has loaded for itself what msgspec will ask for.

python cli_loaded.py CONTENDER URL
"""

from __future__ import annotations

import contextlib  # noqa: F401

import cli_typer  # noqa: F401 - runs it
