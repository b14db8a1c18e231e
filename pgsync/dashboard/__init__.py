"""The page that operators keep open."""
