"""The collaborators that the nodes of a mount are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rescalefs.ahead import FilesAhead
from rescalefs.catalog import Catalog
from rescalefs.content.engine import ContentEngine
from rescalefs.control import Controls
from rescalefs.events import Events
from rescalefs.follow import Follower


@dataclass(frozen=True, slots=True)
class Rooms:
    """What nodes ask and act through."""

    catalog: Catalog
    engine: ContentEngine
    ahead: FilesAhead
    follower: Follower
    controls: Controls
    events: Events
    is_read_only: bool
    started_ns: int
    status: Callable[[], str]
    stats: Callable[[], Mapping[str, object]]
    config: Mapping[str, object]
    refresh: Callable[..., None]  # of all, a job (its id), or a run (both ids)
