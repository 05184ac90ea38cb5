"""The demo: the whole flow on one machine, with a real model and a real picture."""
