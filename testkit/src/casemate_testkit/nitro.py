"""AWS's hypervisor of our own: its chain, and documents of enclaves on it.

Source: see `casemate.evidence.nitro`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cbor2

from casemate_testkit.pki import NOW, Authority, Options, der, make, sign_raw

_ES384 = b"\xa1\x01\x38\x22"
PCRS: Mapping[int, bytes] = {n: bytes((n + 1,)) * 48 for n in (0, 1, 2, 4)} | {3: bytes(48)}
"""The registers of an enclave that isn't in debug mode."""


@dataclass(eq=False, kw_only=True)
class NitroModule:
    """The module that makes documents.

    Args:
        leaf_options: of the certificate that signs, which lives three hours.
    """

    leaf_options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        hours = datetime.timedelta(hours=3)
        self.root = make("aws.nitro-enclaves")
        self.region = self.root.issue("region.aws.nitro-enclaves")
        self.instance = self.region.issue("i-0.region.aws", path_length=0)
        options: Options = {"ca": False, "start": NOW - hours / 2, "end": NOW + hours / 2}
        options.update(self.leaf_options)
        self.leaf = self.instance.issue("i-0-enc1.region.aws", **options)

    def document(
        self,
        *,
        pcrs: Mapping[int, bytes] = PCRS,
        timestamp: datetime.datetime = NOW,
        user_data: bytes | None = b"\x11" * 64,
        nonce: bytes | None = None,
        public_key: bytes | None = None,
        signer: Authority | None = None,
        certificate: Authority | None = None,
        bundle: Sequence[Authority] | None = None,
    ) -> bytes:
        """A document, genuine unless the arguments make it otherwise.

        Args:
            pcrs: the registers; zeros in 0 to 2 mean debug mode.
            timestamp: when it was made.
            user_data, nonce, public_key: what the enclave chose.
            signer: whose key signs instead of the leaf's.
            certificate: another leaf in it.
            bundle: other issuers in it, root first.
        """
        issuers = (self.root, self.region, self.instance) if bundle is None else bundle
        payload = cbor2.dumps({
            "module_id": "i-0-enc1", "digest": "SHA384",
            "timestamp": int(timestamp.timestamp() * 1000), "pcrs": dict(pcrs),
            "certificate": der((certificate or self.leaf).certificate),
            "cabundle": [der(each.certificate) for each in issuers],
            "public_key": public_key, "user_data": user_data, "nonce": nonce,
        })  # fmt: skip
        signed = cbor2.dumps(["Signature1", _ES384, b"", payload])
        signature = sign_raw((signer or self.leaf).key, signed)
        return cbor2.dumps([_ES384, {}, payload, signature])
