"""The version: here, and in CITATION.cff and CHANGELOG.md, which a test compares with it."""

__version__ = "0.2.0"
