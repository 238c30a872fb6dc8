"""A program written like atopile, as far as its telemetry goes."""
