"""Snapshot archives: all files of a working directory in one, as a cluster packs them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Literal

from rescalefs.emulator.content import Bytes

ArchiveFormat = Literal["tar.gz", "zip"]


def pack(members: Mapping[str, bytes], form: ArchiveFormat, date: float) -> Bytes:
    """Return an archive of *members* (path to bytes), each dated *date* seconds since the epoch."""
    buffer = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
            for path, data in members.items():
                zipped.writestr(path.encode(errors="surrogatepass").decode(errors="replace"), data)  # it has no bytes
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for path, data in members.items():
                # Half of a surrogate pair, which JSON may tell of, is the bytes that UTF-8 would have for it.
                info = tarfile.TarInfo(path.encode(errors="surrogatepass").decode(errors="surrogateescape"))
                info.size, info.mtime, info.mode = len(data), int(date), 0o644
                tar.addfile(info, io.BytesIO(data))
    return Bytes(buffer.getvalue())
