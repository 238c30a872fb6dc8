"""Facts about a run, and small tools that host, sender and command share. Imports none of them."""
