"""The demo: the whole flow on one machine, with the real programs as processes."""
