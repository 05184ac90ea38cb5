"""Policy documents for tests: some fields constrained, all others unchecked for a reason."""

from casemate.policy import FIELDS

UNCHECKED = 'unchecked = "for this test"'


def policy_text(tee, constraints, *, others=UNCHECKED):
    """A document with one policy, ``it``, for one TEE.

    Args:
        tee: the alternative's.
        constraints: field → constraint in TOML, without braces.
        others: the constraint on every field that isn't named and has no default.
    """
    lines = ["version = 1", "[[policies.it.alternatives]]", f'tee = "{tee}"']
    for field in FIELDS[tee]:
        if field.name in constraints or field.default is None:
            lines.append(f"{field.name} = {{ {constraints.get(field.name, others)} }}")
    return "\n".join(lines) + "\n"
