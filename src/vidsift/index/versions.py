"""Which version the table has reached, told from the names in its folder without opening it."""

from __future__ import annotations

import os

from vidsift.errors import IndexStateError
from vidsift.index.remote import list_objects
from vidsift.video.address import is_address

TABLE = "clips"


def table_version(folder: str) -> int | None:
    """The table's latest version, read from the folder alone; None when its naming is not known.

    Lance names manifests ``2**64 - 1 - version``, so the newest version is found without importing
    LanceDB, which costs more than a second. IndexStateError when there is no table.
    """
    path = os.path.join(folder, f"{TABLE}.lance", "_versions")
    try:
        found = list_objects(folder, f"{TABLE}.lance/_versions") if is_address(folder) else os.listdir(path)
        names = [name[:-9] for name in found if name.endswith(".manifest")]
    except OSError as error:
        raise IndexStateError(f"{path}: the index's table is missing or unreadable ({error})") from error
    if not names:
        raise IndexStateError(f"{path}: the index's table is damaged (no version of it is left)")
    if any(len(name) != 20 or not name.isdigit() for name in names):
        return None
    return 2**64 - 1 - min(int(name) for name in names)
