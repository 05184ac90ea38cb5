"""Sealed images: one encrypted, authenticated file that holds a directory tree."""
