"""The version of this package, which the schema records too."""

__version__ = "0.1.0"
