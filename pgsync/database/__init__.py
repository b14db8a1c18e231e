"""The ground floor: finding a server, connecting to it, its schema, and running calls on it."""
