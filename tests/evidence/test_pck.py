"""Which platform a quote names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.published import content, needs_published

from casemate.errors import MalformedError
from casemate.evidence.pck import platform_of
from casemate.evidence.quote import parse_quote
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.pki import P256

PLATFORM = DcapPlatform(fmspc=bytes.fromhex("0123456789ab"))
QUOTES = {
    "sgx 3": PLATFORM.sgx_quote(),
    "sgx 4": PLATFORM.sgx_quote(version=4),
    "tdx 4": PLATFORM.td_quote(),
    "tdx 5": PLATFORM.td_quote(version=5),
    "tdx 1.5": PLATFORM.td_quote(version=5, mr_service_td=bytes(48)),
}
V3 = QUOTES["sgx 3"]


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
def test_every_quote_names_its_platform(quote):
    platform = platform_of(parse_quote(quote + b"what follows"))
    assert (platform.fmspc, platform.ca) == ("0123456789ab", "platform")
    assert platform.chain[0] == PLATFORM.pck.certificate
    assert platform.chain[-1] == PLATFORM.root_ca.certificate


@needs_published
@pytest.mark.parametrize(
    ("name", "fmspc"), [("sgx/quote_v3.bin", None), ("tdx/quote_v4.bin", "b0c06f000000")]
)
def test_real_quotes(name, fmspc):
    platform = platform_of(parse_quote(content(name)))
    assert platform.ca in ("platform", "processor")
    assert fmspc in (None, platform.fmspc)


def _refused(data, field):
    with pytest.raises(MalformedError) as caught:
        platform_of(parse_quote(data))
    assert caught.value.code == "quote.pck"
    assert field in caught.value.field


def test_certificates_of_another_form():
    kind = (5).to_bytes(2, "little") + len(V3[V3.index(b"-----BEGIN") :]).to_bytes(4, "little")
    _refused(V3.replace(kind, b"\x01" + kind[1:]), "certification data")
    _refused(V3.replace(b"-----BEGIN CERT", b"-----BEGIN CERX"), "PCK certificate")


def test_a_certificate_of_somebody_else():
    other = DcapPlatform()
    other.pck = other.root_ca.issue("somebody", ca=False, curve=P256)
    _refused(other.sgx_quote(), "PCK certificate")
    stranger = DcapPlatform()
    extensions = {
        each.oid.dotted_string: each.value.value
        for each in stranger.pck.certificate.extensions
        if hasattr(each.value, "value")
    }
    stranger.pck = stranger.root_ca.issue("Intel SGX PCK Certificate", ca=False, curve=P256,
                                          extensions=extensions)  # fmt: skip
    _refused(stranger.sgx_quote(), "issuer")


def test_a_platform_of_another_size():
    _refused(DcapPlatform(fmspc=bytes(5)).sgx_quote(), "FMSPC")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_quote_names_a_platform_or_none(data):
    quote = bytearray(data.draw(st.sampled_from(sorted(QUOTES.values()))))
    for _ in range(data.draw(st.integers(1, 3))):
        quote[data.draw(st.integers(0, len(quote) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        platform = platform_of(parse_quote(bytes(quote)))
    except MalformedError:
        return
    assert len(platform.fmspc) == 12
