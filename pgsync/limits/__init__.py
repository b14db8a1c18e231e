"""Rate limits that the database decides."""
