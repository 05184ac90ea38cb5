"""Verify tokens of Microsoft Azure Attestation.

 1. The token parses, and attests a TEE (`casemate.evidence.maa`).
 2. Its issuer is an ``https`` URL. Whether it is *the* issuer, a policy says, and must.
 3. A key of the key set that came along has the name that the token gives; where the set has a
    certificate for it, that is valid at the given time, and made out to this issuer if to any URL.
    What the token itself says of keys (``jku``, ``x5c``) is never looked at.
 4. That key signed the token, with RS256.
 5. The token counts at the given time.

Source: see `casemate.evidence.maa`; RFC 7519, section 4.1.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

from cryptography import x509

from casemate.endorsements.jwks import TokenKey
from casemate.errors import NotGenuineError, UnavailableError
from casemate.evidence import Tee
from casemate.evidence.maa import MaaToken, parse_maa_token
from casemate.types import sha256
from casemate.verify.chain import check_validity
from casemate.verify.checks import CheckList
from casemate.verify.jws import verify_jws
from casemate.verify.report import ClaimValue, VerifiedReport

_ISSUER = re.compile(r"https://[a-z0-9.-]{1,253}(?::[0-9]{1,5})?/?\Z", re.ASCII)
_CLOCK_SKEW = datetime.timedelta(minutes=5)


def verify_maa(
    data: bytes,
    *,
    keys: Sequence[TokenKey],
    at: datetime.datetime,
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a token.

    Args:
        data: the token.
        keys: the issuer's, from its ``/certs``; whoever gives them vouches for that.
        at: the time.
        checks: collects the checks.

    Raises:
        MalformedError: it can't be read, or attests no TEE.
        UnavailableError: ``maa.no-keys``.
        NotGenuineError: ``maa.*``.

    Does not check: that the issuer is the one that is trusted: that is the policy's field
        ``issuer``. And what the service itself verified: that is what trusting it means.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("maa.token", "the token has the form of Azure Attestation's"):  # 1
        token = parse_maa_token(data)
    with checks.check("maa.issuer", "the issuer can be named: an https URL"):  # 2
        if not _ISSUER.match(token.issuer):
            raise _refusal("issuer", "iss", "an https URL of a host", token.issuer[:120])
    with checks.check("maa.key", "the token's key is in the issuer's key set"):  # 3
        key = _key(token, keys, at)
    with checks.check("maa.signature", "that key signed the token"):  # 4
        if token.jws.algorithm != "RS256":
            raise _refusal("algorithm", "alg", "RS256", token.jws.algorithm)
        verify_jws(token.jws, key.spki, what="maa")
    with checks.check("maa.time", "the token counts at that time"):  # 5
        _check_time(token, at)
    claims: dict[str, ClaimValue] = {
        **token.claims,
        "issuer": token.issuer,
        "signing_key": bytes(sha256(key.spki)),
        "issued_at": token.issued_at.isoformat(),
        "expires": token.expires.isoformat(),
    }
    return VerifiedReport(
        tee=Tee.MAA, report_data=token.report_data, claims=claims, checks=checks.done()
    )


def _key(token: MaaToken, keys: Sequence[TokenKey], at: datetime.datetime) -> TokenKey:
    if not keys:
        raise UnavailableError(
            "maa.no-keys",
            "whether the token is genuine can't be told without its issuer's keys",
            field="keys",
            expected="a JSON Web Key Set",
            got="none",
            remedy=f"Fetch it from {token.issuer[:120]}/certs, and give it as endorsement.",
        )
    named = [key for key in keys if key.key_id == token.jws.key_id]
    if len(named) != 1:
        raise _refusal(
            "unknown-key", "kid", " or ".join(key.key_id[:64] for key in keys)[:400],
            str(token.jws.key_id)[:64], "Fetch the issuer's keys again: they change over time.",
        )  # fmt: skip
    (key,) = named
    if key.certificate is not None:
        check_validity(key.certificate, at=at, what="maa")
        for name in _urls(key.certificate):
            if name.rstrip("/") != token.issuer.rstrip("/"):
                raise _refusal("key-issuer", "x5c", token.issuer, name[:120])
    return key


def _urls(certificate: x509.Certificate) -> list[str]:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return [str(name.value) for name in names if str(name.value).startswith("https://")]


def _check_time(token: MaaToken, at: datetime.datetime) -> None:
    if not token.not_before - _CLOCK_SKEW <= at < token.expires:
        raise _refusal(
            "expired", "exp",
            f"a time from {token.not_before.isoformat()} to {token.expires.isoformat()}",
            at.isoformat(), "Ask for a new token, or check the clock.",
        )  # fmt: skip
    if token.issued_at - _CLOCK_SKEW > at:
        raise _refusal("future", "iat", f"at most {at.isoformat()}", token.issued_at.isoformat())


def _refusal(
    code: str,
    field: str,
    expected: str,
    got: str,
    remedy: str = "Nothing can repair it: ask for a new token from the issuer that you trust.",
) -> NotGenuineError:
    return NotGenuineError(
        f"maa.{code}",
        f"the token's {field} isn't that of a genuine token",
        field=field,
        expected=expected,
        got=got,
        remedy=remedy,
    )
