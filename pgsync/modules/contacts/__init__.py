"""Contacts: import and export of files with real-world dirt."""

from pgsync.modules.contacts.consent import Consent, ConsentChange
from pgsync.modules.contacts.contacts import Contacts
from pgsync.modules.contacts.errors import ContactFileError
from pgsync.modules.contacts.headers import Columns, find_columns
from pgsync.modules.contacts.models import Contact, ContactEvent, ContactImport, ContactImportReject
from pgsync.modules.contacts.phones import to_e164
from pgsync.modules.contacts.previewing import Preview, preview
from pgsync.modules.contacts.rows import ContactRow, Reject, read_contacts
from pgsync.modules.contacts.sample import SampleTruth, write_sample
from pgsync.modules.contacts.tables import Bounds, Table, open_table

__all__ = [
    "Bounds",
    "Columns",
    "Consent",
    "ConsentChange",
    "Contact",
    "ContactEvent",
    "ContactFileError",
    "ContactImport",
    "ContactImportReject",
    "ContactRow",
    "Contacts",
    "Preview",
    "Reject",
    "SampleTruth",
    "Table",
    "find_columns",
    "open_table",
    "preview",
    "read_contacts",
    "to_e164",
    "write_sample",
]
