"""Is it acceptable? A `VerifiedReport` and a policy give an `AppraisedReport`, or mismatches."""

from casemate.policy.appraise import AppraisedReport, appraise
from casemate.policy.constraint import AnyOf, AtLeast, Constraint, Unchecked
from casemate.policy.document import Alternative, Policy, PolicyDocument
from casemate.policy.fields import FIELDS, Field, Kind

__all__ = [
    "FIELDS",
    "Alternative",
    "AnyOf",
    "AppraisedReport",
    "AtLeast",
    "Constraint",
    "Field",
    "Kind",
    "Policy",
    "PolicyDocument",
    "Unchecked",
    "appraise",
]
