"""A typer program with one command and two events.

python cli_typer.py CONTENDER URL
"""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command()
def build(contender: str, url: str):
    """Capture one event before and one after what a real program would do here."""
    telemetry = __import__(f"contender_{contender}")
    telemetry.load()
    telemetry.setup(url)
    telemetry.capture("run started", {"command": "build", "verbose": False, "targets": 3})
    telemetry.capture("run ended", {"command": "build", "ok": True, "warnings": 2})


app()
