"""A plain parallel downloader, the yardstick for one large file: threads that each ask for range after range.

python -m benchmarks.download URL BYTES FILE     prints its seconds, without the start of Python, as JSON
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from urllib.parse import urlsplit

THREADS = 16
RANGE_BYTES = 8 << 20
READ_BYTES = 1 << 18
TIMEOUT_S = 60.0


def download(url: str, size: int, path: str) -> None:
    """Fetch *size* bytes of *url* into *path*."""
    parts = urlsplit(url)
    starts = iter(range(0, size, RANGE_BYTES))
    lock = threading.Lock()  # guards `starts`
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)

    def work() -> None:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                break
            last = min(start + RANGE_BYTES, size) - 1
            connection.request("GET", parts.path, headers={"Range": f"bytes={start}-{last}"})
            with connection.getresponse() as answer:
                while data := answer.read(READ_BYTES):
                    start += os.pwrite(descriptor, data, start)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(descriptor)


if __name__ == "__main__":
    begun = time.perf_counter()
    download(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    print(json.dumps({"seconds": time.perf_counter() - begun}))
