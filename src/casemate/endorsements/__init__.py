"""Endorsements: bytes to certificates, revocation lists, TCB information; no judgement here."""
