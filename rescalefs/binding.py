"""The FUSE binding: mfusepy on libfuse3 where it loads, else fusepy on libfuse2, behind one function.

The only module that imports a binding. It gives the binding an operations object, the options that the loaded library
understands, and what the bindings lack: reads straight into the kernel's buffer, directory listings with attributes on
libfuse3 (readdirplus), and a way to end the mount from another thread.
"""

from __future__ import annotations

import codecs
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from ctypes.util import find_library
from types import ModuleType
from typing import Any

from rescalefs.operations import MAX_PARKED_READS, Gate, Operations
from rescalefs.thread_state import ThreadStates

log = logging.getLogger(__name__)

# Requests the kernel keeps in flight for read-ahead; at its default of 12 a dozen slow downloads stop all others.
MAX_BACKGROUND = 200
# libfuse3 has 10 threads unless told; room for every parked read, and for what must never wait behind them.
MAX_THREADS = MAX_PARKED_READS + 128
# How far the kernel should read ahead on libfuse3, which then asks for 1 MiB at a time: twice as fast from memory.
# libfuse2 would be asked for eight times 128 KiB side by side, by threads that only get into each other's way.
_READ_AHEAD_KIB = 1024
# libfuse learned max_threads in 3.12.
_HAS_MAX_THREADS = (3, 12)
_FILL_DIR_PLUS = 2
# Seconds that the kernel keeps attributes and names: live files must be honest within a second (`tail -f` polls fstat).
ATTRIBUTES_S = 1.0
# Interrupts the loop's wait in the main thread; it has no meaning of its own.
_WAKE = signal.SIGUSR2


class NoFuse(Exception):
    """FUSE cannot be used on this machine; the text is one sentence with the remedy."""


def load(choice: str = "auto") -> Binding:
    """Load a binding: "fuse3", "fuse2", or the better one that is there.

    Raises:
        NoFuse: no library of that kind can be loaded.
    """
    loaders = {"fuse3": (_load_fuse3,), "fuse2": (_load_fuse2,), "auto": (_load_fuse3, _load_fuse2)}[choice]
    reasons = []
    for loader in loaders:
        try:
            return loader()
        except (ImportError, OSError, AttributeError) as error:
            reasons.append(str(error))
    raise NoFuse(
        "no FUSE library can be loaded: install one, for example with  apt-get install fuse3 libfuse3-3  "
        f"({'; '.join(reasons)})"
    )


def _load_fuse3() -> Binding:
    if find_library("fuse3") is None:
        raise OSError("libfuse3 is not installed")
    os.environ["FUSE_LIBRARY_NAME"] = "fuse3"  # read by mfusepy at its import; it prefers libfuse2 otherwise
    import mfusepy

    _redirect_messages(mfusepy._libfuse)
    return Binding(mfusepy, (mfusepy.fuse_version_major, mfusepy.fuse_version_minor))


# `void (*)(enum fuse_log_level, const char *format, va_list)`; a va_list arrives as a pointer on x86-64 and aarch64.
_LOG_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_MESSAGE_BYTES = 1024
# libfuse 3.14 complains of its own default; the value that was asked for is in force.
_HARMLESS = "Ignoring invalid max threads value"


def _log_message(level: int, template: bytes, arguments: int) -> None:
    buffer = ctypes.create_string_buffer(_MESSAGE_BYTES)
    ctypes.CDLL(None).vsnprintf(buffer, _MESSAGE_BYTES, template, ctypes.c_void_p(arguments))
    text = buffer.value.decode(errors="replace").strip()
    is_error = level <= 3 and not text.startswith(_HARMLESS)  # the levels are syslog's: 3 is an error
    log.log(logging.ERROR if is_error else logging.DEBUG, "libfuse: %s", text)


_LOG_MESSAGE = _LOG_FUNCTION(_log_message)  # the library keeps the pointer, so this must live


def _redirect_messages(library: Any) -> None:
    """Send what libfuse3 prints on standard error to the log."""
    library.fuse_set_log_func(_LOG_MESSAGE)


def _load_fuse2() -> Binding:
    if find_library("fuse") is None:
        raise OSError("libfuse2 is not installed")
    import fuse

    codecs.register(_find_codec)
    return Binding(fuse, (2, 9), {"encoding": _NAMES})


# fusepy decodes names strictly, so that one which is no UTF-8 would be EINVAL instead of a name that is not there.
_NAMES = "utf8_names"


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != _NAMES:
        return None
    return codecs.CodecInfo(
        lambda text, _errors="": codecs.utf_8_encode(text, "surrogateescape"),
        lambda data, _errors="": codecs.utf_8_decode(data, "surrogateescape", True),
        name=_NAMES,
    )


class Binding:
    """One loaded binding and what is known of its library."""

    def __init__(self, module: ModuleType, version: tuple[int, int], keywords: Mapping[str, str] | None = None) -> None:
        self.module = module
        self.version = version
        self._keywords = keywords or {}

    @property
    def name(self) -> str:
        """What a user knows it by."""
        return f"{self.module.__name__} on libfuse {self.version[0]}.{self.version[1]}"

    @property
    def read_ahead_kib(self) -> int | None:
        """How far the kernel should read ahead where it lets itself be told, None for as far as it does."""
        return _READ_AHEAD_KIB if self.version[0] == 3 else None

    def options(self, mount_options: Mapping[str, str | bool]) -> dict[str, str | bool]:
        """Return the options of a mount that this library understands."""
        options: dict[str, str | bool] = {
            "fsname": "rescalefs",
            "subtype": "rescalefs",
            "default_permissions": True,  # without it the kernel checks no modes at all
            "use_ino": True,
            "attr_timeout": str(ATTRIBUTES_S),
            "entry_timeout": str(ATTRIBUTES_S),
            "negative_timeout": "0",
            "nosuid": True,
            "nodev": True,
            "noatime": True,
        }
        if self.version[0] == 2:
            options["max_background"] = str(MAX_BACKGROUND)
        elif self.version >= _HAS_MAX_THREADS:
            options["max_threads"] = str(MAX_THREADS)
        return {**options, **mount_options}

    def run(self, operations: Operations, mount_point: str, mount_options: Mapping[str, str | bool], end: End) -> None:
        """Mount and serve until unmounted or *end* is called. Called in the main thread.

        Raises:
            NoFuse: the library refused to mount; it has said why on standard error.
        """
        is_fuse3 = self.version[0] == 3
        gate = _gate3(operations, end) if is_fuse3 else _gate2(operations, end)
        session = _with_plus(self.module) if is_fuse3 else _direct(self.module)
        end.arm(self.module)
        try:
            keywords = {**self._keywords, **self.options(mount_options)}
            session(gate, mount_point, foreground=True, raw_fi=True, **keywords)
        except RuntimeError as error:
            raise NoFuse(f"FUSE refused to mount {mount_point} (code {error})") from None


class End:
    """Ends the mount from any thread: the loop leaves, and libfuse unmounts, lazily if it is busy."""

    def __init__(self) -> None:
        self._library: Any = None
        self._fuse: int | None = None

    def arm(self, module: ModuleType) -> None:
        """Make the main thread's wait interruptible. Called there."""
        self._library = module._libfuse
        signal.signal(_WAKE, lambda _number, _frame: None)
        signal.siginterrupt(_WAKE, True)

    def know_session(self) -> None:
        """Remember the library's session. Called in the init operation, where the library tells it."""
        self._fuse = self._library.fuse_get_context().contents.fuse

    def __call__(self) -> None:
        """End the mount."""
        if self._fuse is not None:
            self._library.fuse_exit(ctypes.c_void_p(self._fuse))
        main = threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, _WAKE)


def _gate2(operations: Operations, end: End) -> Gate:
    class Gate2(Gate):
        """fusepy calls the operations object itself, with the operation's name."""

        def __call__(self, name: str, *args: Any) -> Any:
            return getattr(self, name)(*args)

        def init(self, path: str) -> None:
            end.know_session()
            operations.init(path)

    return Gate2(operations)


def _gate3(operations: Operations, end: End) -> Gate:
    class Gate3(Gate):
        """mfusepy hands over the connection's settings when it starts."""

        def init_with_config(self, connection: Any, _config: Any) -> None:
            end.know_session()
            connection.max_background = MAX_BACKGROUND
            connection.congestion_threshold = MAX_BACKGROUND * 3 // 4
            operations.init("/")

    return Gate3(operations)


def _direct(module: ModuleType) -> Any:
    """Return the binding's FUSE class with a read that hands over the library's buffer instead of copying into it.

    Its threads keep their state from one callback to the next.
    """

    states = ThreadStates()

    class DirectFuse(module.FUSE):  # type: ignore[name-defined,misc]
        def _wrapper(self, function: Callable[..., Any], *args: Any) -> Any:
            states.hold()
            return super()._wrapper(function, *args)

        def read(self, path: bytes, buffer: Any, size: int, offset: int, info: Any) -> int:
            place = (ctypes.c_ubyte * size).from_address(ctypes.addressof(buffer.contents))
            name = path.decode(errors="surrogateescape")
            count: int = self.operations.readinto(name, memoryview(place).cast("B"), offset, info.contents)
            return count

    return DirectFuse


# What a complete entry has besides its kind, number and times.
_SIZES = ("st_nlink", "st_size", "st_blocks", "st_uid", "st_gid")
_NS = 1_000_000_000


def _with_plus(module: ModuleType) -> Any:
    """Return the binding's FUSE class with a readdir that gives attributes, so that `ls -l` needs no stat a file."""

    class PlusFuse(_direct(module)):  # type: ignore[misc]
        def readdir_fuse_3(self, path: bytes, buffer: Any, filler: Any, offset: int, info: Any, flags: int) -> int:
            entries = self.operations.listing(path.decode(errors="surrogateescape"), info.contents.fh, offset)
            stat = module.c_stat()  # one for all: the library copies it
            times = [(name, getattr(stat, f"{name}spec")) for name in ("st_atime", "st_mtime", "st_ctime")]
            for number, (name, attributes, is_complete) in enumerate(entries, start=offset + 1):
                stat.st_mode, stat.st_ino = attributes["st_mode"], attributes["st_ino"]
                plus = _FILL_DIR_PLUS if is_complete else 0
                if is_complete:
                    for field in _SIZES:
                        setattr(stat, field, attributes[field])
                    for field, time in times:
                        time.tv_sec, time.tv_nsec = divmod(attributes[field], _NS)
                # A non-zero offset makes the library take one buffer at a time; 3.14 ignores "plus" at offset 0.
                if filler(buffer, name.encode(errors="surrogateescape"), stat, number, plus) != 0:
                    break
            return 0

    return PlusFuse
