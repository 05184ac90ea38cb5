"""What Casemate is tested against: a distribution of its own that product code never imports.

- `authorities`: vendors' certificate authorities of our own, and evidence that they vouch for,
  genuine or with one fault.

Everything that it signs is signed for real, by keys that nobody trusts unless a test says so.
"""
