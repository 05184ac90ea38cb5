"""Chains and revocation lists of an authority of our own: one fault a case."""

import pytest

from casemate.errors import NotGenuineError, UnavailableError
from casemate.verify.chain import check_revocation, fingerprint, verify_chain
from casemate_testkit.pki import DAY, NOW, make

ROOT = make("root")
MIDDLE = ROOT.issue("middle", path_length=0)
LEAF = MIDDLE.issue("leaf", ca=False)
STRANGER = make("root")


def verify(*chain, root=ROOT, **options):
    certificates = [each.certificate for each in chain]
    verify_chain(certificates, roots={fingerprint(root.certificate)}, at=NOW, what="it", **options)


def test_a_chain_that_holds():
    verify(LEAF, MIDDLE, ROOT)


def test_a_root_of_the_same_name_is_another_root():
    other = STRANGER.issue("middle")
    with pytest.raises(NotGenuineError) as caught:
        verify(other.issue("leaf", ca=False), other, STRANGER)
    assert caught.value.code == "it.root"


def _critical():
    return MIDDLE.issue("leaf", extensions={"1.2.3": b"x"}, critical=("1.2.3",))


FAULTS = {
    "a leaf of another issuer": ("it.chain", lambda: (STRANGER.issue("leaf"), MIDDLE, ROOT)),
    "an issuer of another root": (
        "it.chain", lambda: ((m := STRANGER.issue("middle")).issue("leaf"), m, ROOT),
    ),
    "an issuer's name that isn't the issuer's": (
        "it.chain", lambda: (MIDDLE.issue("leaf", issuer_name="else"), MIDDLE, ROOT),
    ),
    "a leaf that has ended": (
        "it.expired", lambda: (MIDDLE.issue("leaf", end=NOW - DAY), MIDDLE, ROOT),
    ),
    "a leaf that hasn't begun": (
        "it.expired", lambda: (MIDDLE.issue("leaf", start=NOW + DAY), MIDDLE, ROOT),
    ),
    "an issuer that has ended": (
        "it.expired", lambda: ((m := ROOT.issue("m", end=NOW - DAY)).issue("leaf"), m, ROOT),
    ),
    "an issuer that is no CA": (
        "it.not-a-ca", lambda: ((m := ROOT.issue("m", ca=False)).issue("leaf"), m, ROOT),
    ),
    "an issuer that may not sign": (
        "it.not-a-ca", lambda: ((m := ROOT.issue("m", cert_sign=False)).issue("leaf"), m, ROOT),
    ),
    "a path that is too long": (
        "it.not-a-ca", lambda: ((n := MIDDLE.issue("n")).issue("leaf"), n, MIDDLE, ROOT),
    ),
    "an unknown critical extension": (
        "it.critical-extension",
        lambda: (_critical(), MIDDLE, ROOT),
    ),
    "a chain without its root": ("it.root", lambda: (LEAF, MIDDLE)),
    "no chain": ("it.chain", lambda: ()),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chain_with_one_fault(fault):
    code, chain = FAULTS[fault]
    with pytest.raises(NotGenuineError) as caught:
        verify(*chain())
    assert caught.value.code == code


def test_an_unknown_extension_that_the_caller_looks_at():
    leaf = _critical()
    (extension,) = [e for e in leaf.certificate.extensions if e.oid.dotted_string == "1.2.3"]
    verify(leaf, MIDDLE, ROOT, known_critical=[extension.oid])


def revoked(*lists):
    check_revocation(LEAF.certificate, MIDDLE.certificate, lists, at=NOW, what="it")


def test_what_is_on_no_current_list_is_not_revoked():
    revoked(MIDDLE.revocation_list(ROOT.certificate), ROOT.revocation_list(LEAF.certificate))


def test_what_is_on_the_list_is_revoked():
    with pytest.raises(NotGenuineError) as caught:
        revoked(MIDDLE.revocation_list(LEAF.certificate))
    assert caught.value.code == "it.revoked"


@pytest.mark.parametrize(
    "lists",
    [
        (),
        (ROOT.revocation_list(),),
        (MIDDLE.revocation_list(start=NOW - 3 * DAY, end=NOW - DAY),),
        (MIDDLE.revocation_list(start=NOW + DAY, end=NOW + 2 * DAY),),
    ],
    ids=["none", "another issuer's", "outdated", "of the future"],
)
def test_without_a_current_list_it_cannot_be_told(lists):
    with pytest.raises(UnavailableError) as caught:
        revoked(*lists)
    assert caught.value.code == "it.no-crl"


def test_a_list_that_somebody_else_signed():
    forged = STRANGER.issue("middle").revocation_list()
    with pytest.raises(NotGenuineError) as caught:
        revoked(forged)
    assert caught.value.code == "it.crl-signature"
