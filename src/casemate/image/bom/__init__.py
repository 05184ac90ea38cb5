"""Bills of materials: what goes into a root file system (specs/bill-of-materials.md)."""

from casemate.image.bom.assemble import assemble
from casemate.image.bom.assembly import Assembly
from casemate.image.bom.grammar import BillOfMaterials, load_bom

__all__ = ["Assembly", "BillOfMaterials", "assemble", "load_bom"]
