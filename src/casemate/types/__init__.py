"""Values that every floor shares: fixed-length byte strings and secrets."""

from casemate.types.digest import sha256, sha384
from casemate.types.fixed import Nonce, ReportData, Sha256, Sha384
from casemate.types.secret import Secret

__all__ = ["Nonce", "ReportData", "Secret", "Sha256", "Sha384", "sha256", "sha384"]
