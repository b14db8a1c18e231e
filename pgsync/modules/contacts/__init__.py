"""Contacts: import and export of files with real-world dirt."""
