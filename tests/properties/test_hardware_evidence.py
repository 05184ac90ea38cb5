"""Whatever bytes come, a parser of hardware's evidence gives a value or says what is malformed."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.published import FOLDER, cases, content, needs_published

from casemate.endorsements.activation import parse_ak_activation
from casemate.endorsements.certificates import load_certificates, load_revocation_lists
from casemate.endorsements.collection import sort_endorsements
from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.endorsements.ocsp import parse_ocsp_response
from casemate.endorsements.rim import parse_rim
from casemate.errors import MalformedError, NotGenuineError
from casemate.evidence.azure import parse_azure_evidence, parse_hcl_report
from casemate.evidence.cca import parse_cca_token
from casemate.evidence.detect import detect, unwrap
from casemate.evidence.ear import parse_ear
from casemate.evidence.eventlog import parse_event_log
from casemate.evidence.maa import parse_maa_token
from casemate.evidence.nitro import parse_nitro_document
from casemate.evidence.nvidia import parse_nvidia_report
from casemate.evidence.quote import parse_quote
from casemate.evidence.ratls import parse_attested_certificate
from casemate.evidence.snp import parse_snp_report
from casemate.evidence.tpm import parse_tpm_evidence, parse_tpm_quote, parse_tpm_signature
from casemate.evidence.tpm_public import parse_tpm_public
from casemate_testkit.tokens import SNP, TokenService

PARSERS = {
    "sgx": parse_quote,
    "tdx": parse_quote,
    "snp": parse_snp_report,
    "nitro": parse_nitro_document,
    "tpm": parse_tpm_evidence,
    "azure-snp": parse_azure_evidence,
    "azure-tdx": parse_azure_evidence,
    "nvidia": parse_nvidia_report,
    "cca": parse_cca_token,
    "ratls": parse_attested_certificate,
}
OTHERS = (
    parse_ear,
    parse_maa_token,
    detect,
    parse_tpm_quote,
    parse_tpm_signature,
    parse_tpm_public,
    parse_ak_activation,
    parse_hcl_report,
    parse_event_log,
    parse_rim,
    parse_ocsp_response,
    parse_dcap_collateral,
    lambda data: load_certificates(data, what="it"),
    lambda data: load_revocation_lists(data, what="it"),
    lambda data: sort_endorsements([("it", data)]),
)
TOKENS = TokenService()
KEY_SET = TOKENS.key_set()
TOKEN = TOKENS.token()
ENDORSEMENTS = sorted({name for case in cases() for name in case.get("endorsements", ())})


def parses(parse, data):
    # A manifest whose digest doesn't hold isn't malformed, but it isn't what was signed either.
    with contextlib.suppress(MalformedError, NotGenuineError):
        parse(data)


@pytest.mark.parametrize("parse", [*PARSERS.values(), *OTHERS])
@given(data=st.binary(max_size=300))
def test_any_bytes(parse, data):
    parses(parse, data)


@needs_published
@pytest.mark.parametrize("case", cases(), ids=[case["name"] for case in cases()])
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(draw=st.data())
def test_published_evidence_with_a_piece_exchanged(case, draw):
    data = unwrap(content(case["evidence"]))
    parses(PARSERS[case["tee"]], damaged(draw, data))


@needs_published
@pytest.mark.parametrize("name", ENDORSEMENTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(draw=st.data())
def test_published_endorsements_with_a_piece_exchanged(name, draw):
    data = damaged(draw, content(name))
    parses(lambda changed: sort_endorsements([(name, changed)]), data)


@needs_published
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(draw=st.data())
def test_a_published_event_log_with_a_piece_exchanged(draw):
    log = (FOLDER / "tdx" / "eventlog_ccel.bin").read_bytes()[:20_000]
    parses(parse_event_log, damaged(draw, log + b"\xff" * 64))


@settings(max_examples=100, deadline=None)
@given(draw=st.data())
def test_a_token_with_a_claim_exchanged(draw):
    name = draw.draw(st.sampled_from(sorted(SNP)))
    parses(parse_maa_token, TOKENS.token(SNP | {name: draw.draw(JSON)}))
    parses(parse_maa_token, damaged(draw, TOKEN))


@settings(max_examples=100, deadline=None)
@given(draw=st.data())
def test_a_key_set_with_a_piece_exchanged(draw):
    parses(lambda data: sort_endorsements([("it", data)]), damaged(draw, KEY_SET))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


def damaged(draw, data):
    """Data with a stretch replaced, by another length or none."""
    start = draw.draw(st.integers(0, len(data)))
    length = draw.draw(st.integers(0, 40))
    return data[:start] + draw.draw(st.binary(max_size=40)) + data[start + length :]
