"""The seed's modules, built on operations."""
