"""The `atotelemetry` command: one module a subcommand; each imports only what it needs."""
