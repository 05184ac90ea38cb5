"""What vendors' services say of their hardware: asked for, checked, kept on disk, carried offline.

Nothing here is trusted for where it came from: every part is signed by its vendor and is checked
before it is kept and each time that it is used.
"""
