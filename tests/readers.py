"""Programs that read files of a mount again and again, and look at every byte."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

Reading = subprocess.Popen[str]
# Reads the files of a directory again and again, and compares each with its checksum; ends with 1 at a wrong byte.
READER = """
import hashlib, os, sys
from pathlib import Path
top = Path(sys.argv[1])
sums = dict(line.split(" ", 1)[::-1] for line in sys.stdin.read().splitlines())
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    for name, sum in sums.items():
        try:
            data = (top / name).read_bytes()
        except OSError as error:
            sys.exit(f"error {error.errno} {name}")
        if hashlib.sha256(data).hexdigest() != sum:
            sys.exit(f"wrong {name}")
"""


@contextlib.contextmanager
def readers(
    top: Path, files: dict[str, bytes], count: int, rounds: int = 1_000_000
) -> Iterator[list[subprocess.Popen[str]]]:
    """Let processes read all files again and again; none is left behind."""
    sums = "".join(f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in files.items())
    made: list[Reading] = []
    try:
        for _ in range(count):
            command = [sys.executable, "-c", READER, str(top), str(rounds)]
            pipe = subprocess.PIPE
            made.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
            made[-1].stdin.write(sums)
            made[-1].stdin.close()
            assert made[-1].stdout.readline() == "ready\n"
        yield made
    finally:
        for process in made:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
