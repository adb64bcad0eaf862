"""A process that uses a cache directory as a mount does; the tests run it, and kill it.

    python -m tests.cache_user <directory> <limit in bytes> <seed> <reads>

It reads files of a made-up server through a content engine and compares each byte with what the server has. It prints
`ready` when it begins, and a line of JSON when it has read all: what it fetched, and the most that lay on disk.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from contextlib import closing
from pathlib import Path

from rescalefs.content.cache import DiskCache
from rescalefs.content.engine import ContentEngine
from tests.disk_use import used_bytes
from tests.faulty_source import FaultySource, remote

MIB = 1 << 20
# Large and small ones, more than the caches of the tests can hold.
SIZES = [3 * MIB, 5 * MIB + 17, 9 * MIB, 12 * MIB + 1, *([200_000] * 12)]
PLAIN = hashlib.shake_128(b"shared").digest(max(SIZES) + len(SIZES))


def main(directory: str, limit_bytes: int, seed: int, reads: int) -> None:
    """Read at random, in order now and then."""
    root = Path(directory)
    files = {str(number): PLAIN[number : number + size] for number, size in enumerate(SIZES)}
    source = FaultySource(files, cuts=0.05, seed=seed)
    listed = [remote(name, data) for name, data in files.items()]
    order = random.Random(seed)
    with closing(ContentEngine(DiskCache(root, limit_bytes, min_free_bytes=0), source, account="a")) as engine:
        engine.start()
        print("ready", flush=True)
        most = done = 0
        while done < reads:
            file = order.choice(listed)
            with closing(engine.open(file)) as handle:
                at = order.choice([0, order.randrange(file.size)])
                for _ in range(order.randint(1, 12)):
                    data = handle.read(at, 300_000)
                    if data != files[file.id][at : at + 300_000]:
                        sys.exit(f"file {file.id} at {at}: wrong bytes")
                    at += len(data)
                    done += 1
                most = max(most, used_bytes(root))
    print(json.dumps({"taken": source.taken_bytes, "most": most}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *(int(number) for number in sys.argv[2:]))
