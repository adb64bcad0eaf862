"""What a row is given: the origin, the files, mounts, and a memory for what other programs took."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import mounts
from benchmarks.checks import Outcome
from benchmarks.client import Counts, Origin
from benchmarks.files import Sizes, checksum
from benchmarks.mounts import Mount
from benchmarks.readers import Failed, check, read, run

# The link of a user far away: what Rescale gives one stream, and the wait for each answer.
FAR_LATENCY_S = 0.05
FAR_BYTES_PER_S = 8.5e6
# The link of a user whose network is not the limit.
NEAR_LATENCY_S = 0.02

# How another mount is made: in a new directory, None if it is not installed.
Maker = Callable[[Path, Origin], Mount | None]
PEERS: dict[str, Maker] = {
    "rclone": mounts.rclone,
    "rclone, 16 streams": lambda home, origin: mounts.rclone(home, origin, 16, "4M"),
    "httpdirfs": mounts.httpdirfs,
}
_numbers = itertools.count(1)


@dataclass
class Bench:
    """One binding's turn; `memory` and `checksums` are shared by all."""

    origin: Origin
    root: Path
    sizes: Sizes
    repeat: int
    binding: str
    memory: dict[str, tuple[float, ...] | str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)

    def with_binding(self, binding: str) -> Bench:
        """Return the turn of another binding, which remembers what this one has measured."""
        return replace(self, binding=binding)

    def on_disk(self, name: str) -> Path:
        """Return a file of the tree as the origin has it."""
        return self.root / "tree" / name

    def checksum(self, name: str) -> str:
        """Return the sha512 of a file of the tree, computed once."""
        if name not in self.checksums:
            self.checksums[name] = checksum(self.on_disk(name))
        return self.checksums[name]

    def checksum_of_all(self, names: list[str]) -> str:
        """Return the sha512 of files of the tree, one after the other."""
        digest = hashlib.sha512()
        for name in names:
            digest.update(self.on_disk(name).read_bytes())
        return digest.hexdigest()

    def far(self) -> None:
        """Make the origin one that is far away."""
        self.origin.limit(FAR_LATENCY_S, FAR_BYTES_PER_S)

    def near(self) -> None:
        """Make the origin one whose streams nothing limits."""
        self.origin.limit(NEAR_LATENCY_S)

    def mounted(self, *, has_budget: bool = True) -> Mount:
        """Return a new mount with an empty cache, to be entered."""
        return mounts.rescalefs(self.new_home(), self.origin, self.binding, has_budget=has_budget)

    def new_home(self) -> Path:
        """Return a directory for one mount."""
        home = self.root / f"mount{next(_numbers)}"
        home.mkdir()
        return home

    def look(self, *paths: Path) -> None:
        """Have names looked up, then begin to count."""
        run("stat", *paths)
        self.origin.reset()

    def cold(self, measure: Callable[[Mount], float], *, has_budget: bool = True) -> tuple[list[float], list[Counts]]:
        """Let *measure* see `repeat` new mounts with empty caches; return its samples and what each cost."""
        samples, counts = [], []
        for _ in range(self.repeat):
            with self.mounted(has_budget=has_budget) as mount:
                samples.append(measure(mount))
                counts.append(self.origin.counts())
        return samples, counts

    def once(self, key: str, measure: Callable[[], float], *, repeat: int | None = None) -> tuple[float, ...]:
        """Return samples that do not depend on the binding, measured when first asked for.

        Raises:
            Failed: the measurement fails, now or then.
        """
        return self._once(key, lambda: [measure() for _ in range(repeat or self.repeat)])

    def _once(self, key: str, measure: Callable[[], list[float]]) -> tuple[float, ...]:
        if key not in self.memory:
            try:
                self.memory[key] = tuple(measure())
            except Failed as error:
                self.memory[key] = str(error)
        known = self.memory[key]
        if isinstance(known, str):
            raise Failed(known)
        return known

    def beside(self, outcome: Outcome, peer: str, measure: Callable[[Mount], float]) -> float | None:
        """Add another mount's figure, measured cold like ours; return its median, None with a note if it has none."""

        def samples() -> list[float]:
            return [sample for _ in range(self.repeat) for sample in self._with(peer, lambda mount: [measure(mount)])]

        return self._beside(outcome, peer, samples)

    def beside_all(self, outcome: Outcome, peer: str, measure: Callable[[Mount], list[float]]) -> float | None:
        """Add another mount's figure, all samples from one mount; otherwise as `beside`."""
        return self._beside(outcome, peer, lambda: self._with(peer, measure))

    def _beside(self, outcome: Outcome, peer: str, samples: Callable[[], list[float]]) -> float | None:
        try:
            return outcome.figure(peer, self._once(f"{outcome.row} {peer}", samples))
        except Failed as error:
            outcome.notes.append(f"no figure of {peer}: {error}")
            return None

    def _with(self, peer: str, measure: Callable[[Mount], list[float]]) -> list[float]:
        mount = PEERS[peer](self.new_home(), self.origin)
        if mount is None:
            raise Failed(f"{peer} is not installed")
        with mount:
            return measure(mount)

    def seconds(self, program: str, path: Path, name: str, deadline_s: float = 600.0) -> float:
        """Let a program of `benchmarks.read` read all of *path*, which is *name* of the tree; return its seconds."""
        found = read(program, path, deadline_s=deadline_s)
        check(found["sha512"], self.checksum(name), str(path))
        return float(found["seconds"])


def most(counts: list[Counts], what: Callable[[Counts], int]) -> int:
    """Return the largest of a counter: a goal on requests or bytes holds for every sample."""
    return max(what(count) for count in counts)
