"""Mounts in processes of their own: rescalefs with either binding, rclone, httpdirfs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from benchmarks.client import Origin
from benchmarks.readers import ROOT, Failed, run
from rescalefs import system

READY_S = 30.0
END_S = 20.0
LOOK_S = 0.02
# rclone keeps a file open for 5 s after its last close, and forgets what it has of one that it never closed.
RCLONE_SETTLES_S = 6.0
# The names of the bindings here, and those of `rescalefs mount --binding`.
BINDINGS = {"mfusepy": "fuse3", "fusepy": "fuse2"}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KIB = 1 << 10


@dataclass
class Mount:
    """One mount; `path_of` places a file of the tree (`small/d00/f001.dat`, run 1) in it."""

    name: str
    home: Path
    command: list[str]
    path_of: Callable[[str, int], str]
    environ: dict[str, str] = field(default_factory=dict)
    settles_s: float = 0.0  # How long after the last close a cache is complete on disk.
    process: subprocess.Popen[bytes] | None = None

    @property
    def point(self) -> Path:
        """Return the mount point."""
        return self.home / "mount"

    @property
    def cache(self) -> Path:
        """Return the cache directory."""
        return self.home / "cache"

    def file(self, name: str, number: int = 1) -> Path:
        """Return where a file of the tree is; *number* is the run, for mounts that know runs."""
        return self.point / self.path_of(name, number)

    def start(self) -> None:
        """Mount, and return when the mount answers.

        Raises:
            Failed: it does not.
        """
        self.point.mkdir(parents=True, exist_ok=True)
        self.cache.mkdir(mode=0o700, exist_ok=True)
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, "HOME": str(self.home), **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which then unmounts
            )
        give_up_at = time.monotonic() + READY_S
        while system.mounted_type(self.point) is None:
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                raise Failed(f"{self.name} does not mount: {self._last_words()}")
            time.sleep(LOOK_S)
        run("ls", self.point, deadline_s=READY_S)

    def stop(self) -> None:
        """Unmount, by force if it must be; leave no process and no mount."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        if system.mounted_type(self.point) is not None:
            with contextlib.suppress(system.MountError):
                system.unmount(self.point, is_lazy=True)

    def remount(self) -> None:
        """End and begin again with the same cache, which is no longer in the page cache."""
        time.sleep(self.settles_s)
        self.stop()
        cool(self.cache)
        self.start()

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # utime and stime, see proc(5)

    def peak_bytes(self) -> int:
        """Return the most memory that was resident."""
        line = next(line for line in self._proc("status").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * _KIB

    def resident_bytes(self) -> int:
        """Return the memory that is resident."""
        line = next(line for line in self._proc("status").splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * _KIB

    def _proc(self, name: str) -> str:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/{name}").read_text(encoding="utf-8")

    def _last_words(self) -> str:
        return (self.home / "log").read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]

    def __enter__(self) -> Mount:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, and remove the cache."""
        self.stop()
        if system.mounted_type(self.point) is None:
            shutil.rmtree(self.home, ignore_errors=True)


def cool(path: Path) -> None:
    """Drop a file, or all files below a directory, from the page cache."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:  # a cache may tidy up
            continue
        try:
            os.fsync(descriptor)  # dirty pages stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def forget_names() -> None:
    """Have the kernel forget names and attributes of everything, so that a disk begins like a new mount; as root."""
    os.sync()  # what is to be written stays
    with contextlib.suppress(PermissionError):
        Path("/proc/sys/vm/drop_caches").write_text("2", encoding="ascii")


def rescalefs(home: Path, origin: Origin, binding: str, *, has_budget: bool) -> Mount:
    """Return a mount of the API; *has_budget* is False to send requests unpaced."""

    def path_of(name: str, number: int) -> str:
        job, _, path = name.partition("/")
        return f"jobs/{job}/runs/{number}/{path}"

    environ = {"RESCALE_API_URL": origin.url, "RESCALE_API_KEY": origin.key}
    if not has_budget:
        environ["RESCALEFS_BUDGET"] = "off"
    mount = Mount(f"rescalefs ({binding})", home, [], path_of, environ)
    mount.command = [
        *(sys.executable, "-m", "rescalefs", "mount", "--foreground", "--binding", BINDINGS[binding]),
        *("--cache-dir", str(mount.cache), "--log-level", "warning", str(mount.point)),
    ]
    return mount


def rclone(home: Path, origin: Origin, streams: int = 8, chunk: str = "8M") -> Mount | None:
    """Return a mount of the plain tree by rclone, None where it is not installed.

    Eight streams of 8 MiB were its fastest setting where streams are not limited (16 of 4 MiB: 1.3 times as long, more
    read-ahead: 1.2 times); 16 streams of 4 MiB, which its manual recommends, were faster where they are.
    Names and sizes never change here, so it may keep them.
    """
    own = Path(sysconfig.get_path("scripts"), "rclone")
    program = str(own) if own.exists() else shutil.which("rclone")
    if program is None:
        return None
    mount = Mount("rclone", home, [], lambda name, number: name, settles_s=RCLONE_SETTLES_S)
    mount.command = [
        *(program, "mount", ":http:", str(mount.point), "--http-url", origin.files_url, "--read-only"),
        *("--config", os.devnull, "--cache-dir", str(mount.cache)),
        *("--vfs-cache-mode", "full", "--vfs-read-chunk-streams", str(streams)),
        *("--vfs-read-chunk-size", chunk),
        *("--dir-cache-time", "24h", "--attr-timeout", "1h", "--no-checksum"),
    ]
    return mount


def httpdirfs(home: Path, origin: Origin) -> Mount | None:
    """Return a mount of the plain tree by httpdirfs with its cache, None where it is not installed."""
    program = shutil.which("httpdirfs")
    if program is None:
        return None
    mount = Mount("httpdirfs", home, [], lambda name, number: name)
    mount.command = [
        *(program, "-f", "--cache", "--cache-location", str(mount.cache), "--max-conns", "16"),
        *("-o", "kernel_cache,attr_timeout=3600,entry_timeout=3600", origin.files_url, str(mount.point)),
    ]
    return mount
