"""The FUSE binding: mfusepy on libfuse3 where it loads, else fusepy on libfuse2, behind one function.

The only module that imports a binding. It gives the binding an operations object, the options that the loaded library
understands, and what the bindings lack: reads straight into the kernel's buffer, directory listings with attributes on
libfuse3 (readdirplus), and a way to end the mount from another thread.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from ctypes.util import find_library
from types import ModuleType
from typing import Any

from rescalefs.kernel import CHANGEABLE_S, FINAL_S
from rescalefs.namespace import FINAL_BELOW
from rescalefs.operations import MAX_PARKED_READS, Gate, Operations
from rescalefs.stat_bytes import StatBytes
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
_READDIR_PLUS, _FILL_DIR_PLUS = 1, 2
_ROOT_INODE = 1
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
            # libfuse2 has one for all, and no way to drop the attributes of a path.
            "attr_timeout": str(FINAL_S if self.version[0] == 3 else CHANGEABLE_S),
            "entry_timeout": str(FINAL_S),
            "negative_timeout": "0",
            "nosuid": True,
            "nodev": True,
            "noatime": True,
        }
        if self.version[0] == 2:
            options["max_background"] = str(MAX_BACKGROUND)
        elif self.version >= _HAS_MAX_THREADS:
            options["max_threads"] = str(MAX_THREADS)
        # libfuse3 always mounts over what is there, and has no word for it any more.
        forgotten = {"nonempty"} if self.version[0] == 3 else set()
        return {**options, **{name: value for name, value in mount_options.items() if name not in forgotten}}

    def run(self, operations: Operations, mount_point: str, mount_options: Mapping[str, str | bool], end: End) -> None:
        """Mount and serve until unmounted or *end* is called. Called in the main thread.

        Raises:
            NoFuse: the library refused to mount; it has said why on standard error.
        """
        is_fuse3 = self.version[0] == 3
        calls: _Calls = (_Calls3 if is_fuse3 else _Calls2)(self.module, os.path.abspath(mount_point))
        gate = (_gate3 if is_fuse3 else _gate2)(operations, end, calls)
        session = _fuse3_class(self.module) if is_fuse3 else _fuse2_class(self.module)
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


class _Calls:
    """What both libraries let us tell the kernel; see `rescalefs.kernel`."""

    def __init__(self, module: ModuleType, mount_point: str) -> None:
        self._library = library = module._libfuse
        self._mount_point = mount_point
        self._fuse = ctypes.c_void_p()
        self._session = ctypes.c_void_p()
        library.fuse_get_session.restype = ctypes.c_void_p
        entry = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t]
        library.fuse_lowlevel_notify_inval_entry.argtypes = entry

    def know_session(self) -> None:
        """Remember the library's session. Called in the init operation, where the library tells it."""
        self._fuse = ctypes.c_void_p(self._library.fuse_get_context().contents.fuse)
        self._session = ctypes.c_void_p(self._library.fuse_get_session(self._fuse))

    @property
    def _is_over(self) -> bool:
        """Tell whether the mount ends: the library closes its connection next, and no call may use it any more."""
        return bool(self._library.fuse_session_exited(self._session))

    def _channel(self) -> int | None:
        """Return what notices are sent to."""
        return self._session.value

    def is_interrupted(self) -> bool:
        """Tell whether who waits for the operation that this thread serves was killed, or got another signal."""
        return bool(self._library.fuse_interrupted())

    def drop_attributes(self, path: str) -> None:
        """Let the attributes be: they last a second."""

    def drop_names(self) -> None:
        """Drop the names in the mount's top directory, which takes all those below along."""
        for name in FINAL_BELOW:
            if self._is_over or (channel := self._channel()) is None:
                return
            self._library.fuse_lowlevel_notify_inval_entry(channel, _ROOT_INODE, name.encode(), len(name))
            self.look(f"/{name}")  # who is at work in this directory would find it to have no path until then

    def look(self, path: str) -> None:
        """Have the kernel look at a path."""
        if not self._is_over:
            with contextlib.suppress(OSError):
                os.stat(self._mount_point + path)


class _Calls2(_Calls):
    """libfuse2 sends notices to a channel."""

    def __init__(self, module: ModuleType, mount_point: str) -> None:
        super().__init__(module, mount_point)
        self._library.fuse_session_next_chan.restype = ctypes.c_void_p

    def _channel(self) -> int | None:
        channel: int | None = self._library.fuse_session_next_chan(self._session, None)
        return channel


class _Calls3(_Calls):
    """libfuse3 finds the kernel's inode of a path."""

    def __init__(self, module: ModuleType, mount_point: str) -> None:
        super().__init__(module, mount_point)
        self._library.fuse_invalidate_path.argtypes = (ctypes.c_void_p, ctypes.c_char_p)

    def drop_attributes(self, path: str) -> None:
        """Drop the attributes; the library says ENOENT where the kernel knows nothing of the path."""
        if not self._is_over:
            self._library.fuse_invalidate_path(self._fuse, path.encode(errors="surrogateescape"))


def _gate2(operations: Operations, end: End, calls: _Calls) -> Gate:
    class Gate2(Gate):
        """fusepy calls the operations object itself, with the operation's name."""

        def __call__(self, name: str, *args: Any) -> Any:
            return getattr(self, name)(*args)

        def init(self, path: str) -> None:
            end.know_session()
            calls.know_session()
            operations.connect(calls)
            operations.init(path)

    return Gate2(operations)


def _gate3(operations: Operations, end: End, calls: _Calls) -> Gate:
    class Gate3(Gate):
        """mfusepy hands over the connection's settings when it starts."""

        def init_with_config(self, connection: Any, _config: Any) -> None:
            end.know_session()
            calls.know_session()
            connection.max_background = MAX_BACKGROUND
            connection.congestion_threshold = MAX_BACKGROUND * 3 // 4
            operations.connect(calls)
            operations.init("/")

    return Gate3(operations)


def _direct_class(module: ModuleType, stat_bytes: StatBytes) -> Any:
    """Return the binding's FUSE class without what is slow in it, for operations that come by the hundred thousand.

    A read hands over the library's buffer instead of copying into it, attributes are written as they lie in memory,
    and threads keep their state from one callback to the next.
    """

    states = ThreadStates()
    stat_size = stat_bytes.size

    class DirectFuse(module.FUSE):  # type: ignore[name-defined,misc]
        def _wrapper(self, function: Callable[..., Any], *args: Any) -> Any:
            states.hold()
            return super()._wrapper(function, *args)

        def read(self, path: bytes, buffer: Any, size: int, offset: int, info: Any) -> int:
            place = (ctypes.c_ubyte * size).from_address(ctypes.addressof(buffer.contents))
            name = path.decode(errors="surrogateescape")
            count: int = self.operations.readinto(name, memoryview(place).cast("B"), offset, info.contents)
            return count

        def _fill(self, path: bytes, buffer: Any) -> int:
            """Answer getattr."""
            stat = self.operations.getattr(path.decode(errors="surrogateescape"))
            ctypes.memmove(buffer, stat_bytes(*stat), stat_size)
            return 0

    return DirectFuse


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _fuse2_class(module: ModuleType) -> Any:
    """Return fusepy's class with getattr and readdir of our own."""
    stat_bytes = StatBytes(module.c_stat)
    kind = stat_bytes.kind
    # The library's function takes addresses; ctypes would make an object for each.
    fill_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64)

    class Fuse2(_direct_class(module, stat_bytes)):  # type: ignore[misc]
        def fgetattr(self, path: bytes, buffer: Any, _info: Any) -> int:
            return int(self._fill(path, buffer))

        def readdir(self, path: bytes, buffer: Any, filler: Any, offset: int, info: Any) -> int:
            fill = fill_type(_address(filler))
            where, handle, number = path.decode(errors="surrogateescape"), info.contents.fh, 0
            # Without numbers the library takes all of it at once, and asks no more.
            while lines := self.operations.readdir(where, handle, number, has_attributes=False):
                for name, inode, mode, _size, _time in lines:
                    if fill(buffer, name, kind(inode, mode), 0) != 0:
                        return 0
                number += len(lines)
            return 0

    return Fuse2


def _fuse3_class(module: ModuleType) -> Any:
    """Return mfusepy's class with getattr and readdir of our own, which gives attributes: `ls -l` asks no more."""
    stat_bytes = StatBytes(module.c_stat)
    kind = stat_bytes.kind
    fill_type = ctypes.CFUNCTYPE(
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int)
    )

    class Fuse3(_direct_class(module, stat_bytes)):  # type: ignore[misc]
        def getattr_fuse_3(self, path: bytes, buffer: Any, _info: Any) -> int:
            return int(self._fill(path, buffer))

        def readdir_fuse_3(self, path: bytes, buffer: Any, filler: Any, offset: int, info: Any, flags: int) -> int:
            fill = fill_type(_address(filler))
            where, handle, number = path.decode(errors="surrogateescape"), info.contents.fh, offset
            is_plus = bool(flags & _READDIR_PLUS)
            while lines := self.operations.readdir(where, handle, number, has_attributes=is_plus):
                for name, inode, mode, size, time in lines:
                    number += 1
                    # A number makes the library take one buffer at a time; 3.14 ignores "plus" without.
                    if size is None:
                        is_full = fill(buffer, name, kind(inode, mode), number, 0)
                    else:
                        is_full = fill(buffer, name, stat_bytes(inode, mode, size, time), number, _FILL_DIR_PLUS)
                    if is_full:
                        return 0
            return 0

    return Fuse3
