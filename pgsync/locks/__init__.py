"""Named locks with an owner, a deadline and a fencing token."""
