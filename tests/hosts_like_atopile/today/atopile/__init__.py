"""A program written like atopile 0.15, as far as its telemetry goes."""
