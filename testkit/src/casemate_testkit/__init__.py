"""What Casemate is tested against: a distribution of its own that product code never imports.

- `pki`: certificate authorities of our own, their revocation lists and OCSP responses.
- A module a TEE (`azure`, `cca`, `dcap`, `nitro`, `nvidia`, `snp`, `tpm`), `ratls` for attested
  certificates and `eventlog` for logs: a platform of our own, the evidence that it makes, and the
  endorsements that go with it, genuine or with one fault.
- `kernel_fuse` and the other `kernel_…`: stand-ins of the interfaces that TEEs are asked through;
  `software_tpm`: a TPM as a process; `azure_guest`: one that is furnished like Azure's.

Everything that it signs is signed for real, by keys that nobody trusts unless a test says so.
"""
