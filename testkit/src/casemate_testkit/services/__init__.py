"""Vendors' services of our own, over real HTTP on loopback, that can fail, dawdle and lie.

- `web`: the server, and what can be wrong with an answer whatever is in it.
- `pccs`: Intel's PCS, or a PCCS.
- `kds`: AMD's key distribution service.
- `rim`: NVIDIA's service for reference integrity manifests, and its OCSP responder.
"""
