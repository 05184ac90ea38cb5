"""Where authorities and SNP machines were once: import `pki` and `snp` instead."""

from casemate_testkit.pki import DAY, NOW, Authority, Options, make, name
from casemate_testkit.snp import CHIP, SnpPlatform

__all__ = ["CHIP", "DAY", "NOW", "Authority", "Options", "SnpPlatform", "make", "name"]
