"""The part that runs in the detached child, `python -m atotelemetry.sender`: read, batch, deliver. Never `host/`."""
