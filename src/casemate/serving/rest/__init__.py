"""The REST interfaces. Imported only where a REST port is asked for."""
