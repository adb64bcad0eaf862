"""What the catalog weighs: `python -m benchmarks.weight FILES` prints the bytes that a final run's tree keeps.

A process of its own, so that nothing else is weighed; without a mount and without a server.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc

from benchmarks.files import wide_name
from rescalefs.models import Digest, RemoteFile
from rescalefs.packed import PackedFiles, PackedTree, pack
from rescalefs.rows import FileRows

_TIME_NS = 1_700_000_000 * 10**9


def listing(count: int) -> list[RemoteFile]:
    """Return the files of a large run, each with a checksum of its own."""
    return [
        RemoteFile(
            f"f{number:06x}",
            wide_name(number),
            number,
            _TIME_NS + number,
            5,
            True,
            False,
            Digest("sha512", number.to_bytes(64, "big")),
            "1",
        )
        for number in range(count)
    ]


def main() -> None:
    """Pack a tree as the catalog does, and print what stays."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tree = PackedTree(pack(FileRows.of(listing(int(sys.argv[1])))))
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    assert len(PackedFiles(tree)) == int(sys.argv[1])
    print(after - before)


if __name__ == "__main__":
    main()
