"""Making an empty index."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from uuid import uuid4

from vidsift.errors import IndexStateError
from vidsift.index.config import IndexConfig, ModelSpec, config_bytes, config_from, write_config
from vidsift.index.remote import list_objects
from vidsift.index.rerank import RerankWeights
from vidsift.index.versions import TABLE
from vidsift.video import SegmentConfig
from vidsift.video.address import is_address


def create_files(
    folder: str, model: ModelSpec, segmentation: SegmentConfig, search: RerankWeights
) -> IndexConfig:
    """Lay out an empty index in `folder`; `index.json` comes last, so a killed creation can be repeated.

    In object storage several may do so at once. There the table itself remembers what it was made with: one
    writer makes it, and all write the `index.json` that belongs to it, which is returned.
    """
    from vidsift.index.store import Store

    try:
        if not is_address(folder):
            os.makedirs(folder, exist_ok=True)
        present = list(list_objects(folder)) if is_address(folder) else os.listdir(folder)
    except OSError as error:
        raise IndexStateError(f"{folder}: cannot be made an index folder ({error.strerror})") from error
    strangers = [name for name in present if name not in ("writer.lock", f"{TABLE}.lance")]
    strangers = [name for name in strangers if not name.endswith(".tmp")]
    if strangers:
        raise IndexStateError(
            f"{folder}: is not empty ({sorted(strangers)[0]!r} lies there); choose a new folder for the index"
        )
    config = IndexConfig(
        index_id=uuid4().hex,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model,
        segmentation=segmentation,
        search=search,
    )
    if is_address(folder):
        config = config_from(Store.found(folder, model, config_bytes(config)), folder)
    else:
        Store.create(folder, model.width, model.frames_per_clip, model.fingerprint)
    write_config(folder, config)
    return config
