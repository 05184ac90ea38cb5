"""Casemate serves machine-learning models confidentially.

The packages are floors: each imports only from those below it (``docs/architecture.md``).
"""

__version__ = "0.1.0"
