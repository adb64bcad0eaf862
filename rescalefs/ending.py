"""What becomes of a live file when its run has ended: the output that takes its place."""

from __future__ import annotations

from collections.abc import Callable

from rescalefs.catalog import Catalog
from rescalefs.content.engine import ContentEngine
from rescalefs.follow import Final
from rescalefs.tailing import LiveKey


def successor(catalog: Catalog, engine: ContentEngine) -> Callable[[LiveKey], Final | None]:
    """Return what finds the uploaded file of a live file's path, of several the newest; None while there is none."""

    def find(key: LiveKey) -> Final | None:
        files = catalog.view(key.job_id, key.run_id).files
        uploaded = [file for file in files if file.path == key.path and file.is_uploaded]
        newest = min(uploaded, key=lambda file: (-file.uploaded_ns, file.id), default=None)
        return None if newest is None else engine.open(newest)

    return find
