"""The launcher: the first process in the TEE.

It attests, fetches exactly the secrets of its contract, opens the sealed images, places secrets
and starts the workload in the new root. Two processes share that (docs/adr/0005-new-root.md): the
*launcher* speaks to the network, the *keeper* makes the root and keeps the workload.
"""
