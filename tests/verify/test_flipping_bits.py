"""Whatever bit of signed evidence is flipped, it isn't genuine any more.

Of what is small, every bit is flipped; of the rest, one bit in each of some hundred bytes, another
one from byte to byte, and Hypothesis looks for others. Evidence that others published goes through
the same in test_published_evidence.py.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.simulation import Signer

from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.endorsements.rim import parse_rim
from casemate.errors import CasemateError
from casemate.evidence.detect import RATLS
from casemate.evidence.ratls import parse_attested_certificate
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit import ratls
from casemate_testkit.azure import AzureVm
from casemate_testkit.cca import CcaPlatform
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.eventlog import registers
from casemate_testkit.nitro import NitroModule
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import NOW
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tpm import Tpm

SNP, INTEL, GPU, CCA, NITRO = (
    SnpPlatform(),
    DcapPlatform(),
    NvidiaDevice(),
    CcaPlatform(),
    NitroModule(),
)
SIMULATED, TPM, VM = Signer(b"flips"), Tpm(), AzureVm(hardware=SNP)
ROOTS = VendorRoots(
    amd={"Milan": fingerprint(SNP.ark.certificate)},
    intel=INTEL.root_der,
    nitro=fingerprint(NITRO.root.certificate),
    nvidia_device=fingerprint(GPU.root.certificate),
    nvidia_rim=fingerprint(GPU.rim_root.certificate),
)
COLLATERAL = {td: parse_dcap_collateral(INTEL.collateral(td=td)) for td in (False, True)}
RIMS = tuple(parse_rim(GPU.rim(kind)) for kind in ("driver", "vbios"))
CCA_KEYS = Endorsements(keys=(CCA.cpak_spki,))
NONE, AMD = Endorsements(), Endorsements(certificates=tuple(SNP.certificates))


@dataclass(frozen=True)
class Case:
    """Evidence, and how to put a changed piece of it back.

    Args:
        kind: as `verify_anything` names it.
        piece: what something signs.
        whole: evidence with a piece in its place.
        endorsements: what goes with it; where the piece is in them, made from it.
    """

    kind: str
    piece: bytes
    whole: Callable[[bytes], bytes] = bytes
    endorsements: Endorsements | Callable[[bytes], Endorsements] = NONE

    def verify(self, piece):
        given = self.endorsements
        return verify_anything(
            self.kind, self.whole(piece), at=NOW, roots=ROOTS, checks=CheckList(),
            endorsements=given(piece) if callable(given) else given,
            development_roots=[SIMULATED.spki],
        )  # fmt: skip


def within(data, piece):
    """Puts another piece of that length where a piece is."""
    start = data.index(piece)
    return lambda changed: data[:start] + changed + data[start + len(piece) :]


def part(kind, data, start, end, **options):
    piece = data[start:end]
    return Case(kind, piece, lambda changed: data[:start] + changed + data[end:], **options)


def quoted(kind, evidence):
    """A virtual or real TPM's quote in its evidence."""
    document = json.loads(evidence)

    def whole(message):
        quote = {**document["tpm_quote"], "message": message.hex()}
        return json.dumps({**document, "tpm_quote": quote}).encode()

    piece = bytes.fromhex(document["tpm_quote"]["message"])
    return Case(kind, piece, whole, AMD)


def paravisors():
    """The paravisor's document, and the hardware's report before it."""
    document = json.loads(VM.evidence())
    hcl = base64.b64decode(document["hcl_report"])

    def whole(changed):
        text = base64.b64encode(hcl[:32] + changed[:0x2A0] + hcl[704:1236] + changed[0x2A0:])
        return json.dumps({**document, "hcl_report": text.decode()}).encode()

    return Case("azure-snp", hcl[32:704] + hcl[1236:], whole, AMD)


def certificate():
    """An attested certificate's key and claims; its quote is another case."""
    data = ratls.interoperable(lambda bound: INTEL.sgx_quote(report_data=bound))
    parsed = parse_attested_certificate(data)
    spki, claims = parsed.spki, parsed.claims_buffer
    put_key = within(data, spki)

    def whole(changed):
        return within(put_key(changed[: len(spki)]), claims)(changed[len(spki) :])

    return Case(RATLS, spki + claims, whole, Endorsements(dcap=COLLATERAL[False]))


def signed_text(name):
    """TCB information or QE identity; the rest of the collateral stays."""
    fields, quote = json.loads(INTEL.collateral()), INTEL.sgx_quote()

    def endorsements(piece):
        changed = {**fields, name: piece.decode("latin-1")}
        return sort_endorsements([("collateral", json.dumps(changed).encode())])

    return Case("sgx", fields[name].encode(), lambda _: quote, endorsements)


def manifest():
    """All that stands before the certificates in a driver's manifest."""
    genuine, other = GPU.rim("driver"), GPU.rim("vbios")
    start, end = genuine.index(b"<SoftwareIdentity"), genuine.index(b"<KeyInfo")
    chain = (*GPU.chain, GPU.rim_root.certificate)

    def endorsements(piece):
        changed = genuine[:start] + piece + genuine[end:]
        found = sort_endorsements([("driver", changed), ("VBIOS", other)])
        return Endorsements(certificates=chain, rims=found.rims)

    return Case("nvidia", genuine[start:end], lambda _: GPU_REPORT, endorsements)


SGX_QUOTE, TD_QUOTE, REPORT, GPU_REPORT = (
    INTEL.sgx_quote(), INTEL.td_quote(version=5, mr_service_td=bytes(48)), SNP.report(),
    GPU.report(),
)  # fmt: skip
BY_INTEL = {td: Endorsements(dcap=COLLATERAL[td]) for td in (False, True)}
SIGNATURES = 64 + 64 + 384 + 64 + 2 + 32  # signature, key, the quoting enclave's, what it adds
CASES = {
    "an enclave's quote": part("sgx", SGX_QUOTE, 0, 432, endorsements=BY_INTEL[False]),
    "an enclave's signatures": part(
        "sgx", SGX_QUOTE, 436, 436 + SIGNATURES, endorsements=BY_INTEL[False]
    ),
    "a trust domain's quote": part("tdx", TD_QUOTE, 0, 702, endorsements=BY_INTEL[True]),
    "TCB information": signed_text("tcb_info"),
    "a quoting enclave's identity": signed_text("qe_identity"),
    "an SNP report": part("snp", REPORT, 0, len(REPORT), endorsements=AMD),
    "a Nitro document": Case("nitro", NITRO.document()),
    "a TPM's quote": quoted("tpm", TPM.evidence(TPM.quote(pcrs=registers()))),
    "a virtual TPM's quote": quoted("azure-snp", VM.evidence()),
    "a paravisor's document and report": paravisors(),
    "a GPU's report": Case(
        "nvidia", GPU_REPORT,
        endorsements=Endorsements(
            certificates=(*GPU.chain, GPU.rim_root.certificate), rims=RIMS
        ),
    ),
    "a GPU's manifest": manifest(),
    "a CCA token": Case("cca", CCA.token(), endorsements=CCA_KEYS),
    "a certificate's key and claims": certificate(),
    "simulated evidence": Case("simulated", SIMULATED.simulated_evidence(bytes(range(64)))),
}  # fmt: skip
_SMALL = 400
EACH = pytest.mark.parametrize("name", CASES)


def flip(case, position, bit):
    changed = bytearray(case.piece)
    changed[position] ^= 1 << bit
    with pytest.raises(CasemateError):
        case.verify(bytes(changed))
        pytest.fail(f"bit {bit} of byte {position} isn't covered")


@EACH
def test_every_byte_counts(name):
    case = CASES[name]
    case.verify(case.piece)
    size = len(case.piece)
    for position in range(0, size, max(1, size // 400)):
        for bit in range(8) if size < _SMALL else (position * 5 % 8,):
            flip(case, position, bit)


@EACH
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(draw=st.data())
def test_any_bit_counts(name, draw):
    case = CASES[name]
    flip(case, draw.draw(st.integers(0, len(case.piece) - 1)), draw.draw(st.integers(0, 7)))
