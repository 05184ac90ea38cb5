"""CCA tokens of a platform of our own: one fault a case."""

import pytest

from casemate.errors import CasemateError, NotGenuineError, UnavailableError
from casemate.types import sha256
from casemate.verify.cca import verify_cca
from casemate_testkit.cca import CcaPlatform

PLATFORM, OTHER = CcaPlatform(), CcaPlatform()


def verify(token, keys=(PLATFORM.cpak_spki,)):
    return verify_cca(token, platform_keys=keys)


@pytest.mark.parametrize("options", [{}, {"cose_key": True}, {"tag": 907}])
def test_a_genuine_token(options):
    report = verify(PLATFORM.token(**options), keys=(OTHER.cpak_spki, PLATFORM.cpak_spki))
    assert report.report_data == b"\x11" * 64
    assert report.claims["rim"] == b"\x22" * 48
    assert report.claims["cpak"] == sha256(PLATFORM.cpak_spki)
    assert report.claims["debug"] is False


def test_a_platform_that_is_not_secured_is_genuine_and_says_so():
    assert verify(PLATFORM.token(lifecycle=0x4003)).claims["debug"] is True


FAULTS = {
    "another platform": ("cca.platform", lambda: OTHER.token()),
    "a platform token that another key signed": (
        "cca.platform", lambda: PLATFORM.token(platform_signer=OTHER.cpak),
    ),
    "a realm token that another key signed": (
        "cca.realm", lambda: PLATFORM.token(realm_signer=OTHER.realm_key),
    ),
    "another realm's key": ("cca.binding", lambda: PLATFORM.token(bound_key=OTHER.realm_key)),
    "another tag": ("encoding.cbor", lambda: PLATFORM.token(tag=400)),
    "a short challenge": ("cca.malformed", lambda: PLATFORM.token(challenge=bytes(32))),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_token_with_one_fault(fault):
    code, token = FAULTS[fault]
    with pytest.raises(CasemateError) as caught:
        verify(token())
    assert caught.value.code == code
    assert isinstance(caught.value, NotGenuineError) or code in {"encoding.cbor", "cca.malformed"}


def test_without_a_platforms_key_it_can_not_be_told():
    with pytest.raises(UnavailableError) as caught:
        verify(PLATFORM.token(), keys=())
    assert caught.value.code == "cca.no-cpak"
