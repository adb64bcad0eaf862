"""Where the key and the origin come from, as Rescale's own command line finds them.

Key: `--key-file`, else RESCALE_API_KEY, else a systemd credential `rescale-api-key`, else the profile in `apiconfig`.
Origin: `--api-url`, else RESCALE_API_URL, else the profile's `apibaseurl`, else https://platform.rescale.com.
`apiconfig` is an INI file (~/.config/rescale/apiconfig, or RESCALE_CONFIG_FILE); a section is a profile.
Sources: Rescale's user API notebook (`config.py`, 2023), Rescale Interlink CLI_GUIDE (v4.9.8).

File sources are read again when the API refuses the key, so a renewed key needs no remount.
A file that others may read is refused with the remedy, as ssh does; so is the file that systemd takes the environment
from, if the unit names it in RESCALEFS_ENVIRONMENT_FILE.
"""

from __future__ import annotations

import configparser
import ipaddress
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rescalefs.timing import Clock, date_text

log = logging.getLogger(__name__)

DEFAULT_ORIGIN = "https://platform.rescale.com"
_KEY_NAMES = ("apikey", "api_key")
_ORIGIN_NAMES = ("apibaseurl", "platform_url", "apiurl")
# What may stand behind the host in settings of other clients; the version is ours to choose.
_API_PATH = re.compile(r"/*(api(/v[0-9]+)?/*)?")
# Where the systemd unit says which file the environment came from: it is not ours to read, but to be closed.
ENVIRONMENT_FILE = "RESCALEFS_ENVIRONMENT_FILE"
# A key that is refused is refused to everybody who asks: one line stands for all of them, so often.
_SAID_EVERY_S = 60.0


class CredentialError(Exception):
    """The key or the origin cannot be used; the text is one sentence with the remedy."""


class Key:
    """The API key, read again from its source on demand. Its text appears in no repr, log or error. Threads: any."""

    def __init__(
        self,
        read: Callable[[], str],
        source: str,
        *,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self._read = read
        self.source = source
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()  # guards the fields below; a small local file may be read under it
        self._value = read()
        self._seen = {self._value}
        self._trouble = ""  # why the source could not be read again
        self._said_at: float | None = None  # when the log was told that the key is refused; None since it was accepted
        self._refused_since: float | None = None  # by the wall clock; None since it was accepted

    def __repr__(self) -> str:
        return f"<key from {self.source}>"

    @property
    def authorization(self) -> str:
        """The value of the Authorization header: `Bearer` for a JWT, else `Token` (as Interlink chooses)."""
        with self._lock:
            value = self._value
        is_jwt = value.startswith("ey") and value.count(".") == 2
        return f"{'Bearer' if is_jwt else 'Token'} {value}"

    @property
    def status(self) -> str | None:
        """Return `key refused since` when, and where it is from; None if it was accepted last, or never used."""
        with self._lock:
            since = self._refused_since
        return None if since is None else f"key refused since {date_text(since)}: the one from {self.source}"

    def renew(self, refused: str) -> bool:
        """Read the key's source again; True if it now gives another Authorization value than *refused*."""
        with self._lock:
            try:
                self._value = self._read()
            except CredentialError as error:
                self._trouble = str(error)
                return False
            self._seen.add(self._value)
            self._trouble = ""
        return self.authorization != refused

    def hide(self, text: str) -> str:
        """Return a text that the server sent without the key, which some servers repeat in what they complain of."""
        with self._lock:
            values = sorted(self._seen, key=len, reverse=True)
        for value in values:
            text = text.replace(value, "<key>")
        return text

    def refused(self, answer: str) -> None:
        """Tell the log that the key is refused, with the remedy: once a minute, however many ask."""
        with self._lock:
            now = self._clock()
            if self._refused_since is None:
                self._refused_since = self._wall_clock()
            if self._said_at is not None and now - self._said_at < _SAID_EVERY_S:
                return
            self._said_at, trouble = now, self._trouble
        remedy = f"{trouble} " if trouble else "make a new one under Settings > API and put it there "
        log.error("the API key from %s is refused: %s(%s)", self.source, remedy, answer)

    def accepted(self) -> None:
        """Note that the key was accepted: that it is refused again is news, then."""
        if self._refused_since is not None:
            with self._lock:
                self._said_at = self._refused_since = None


@dataclass(frozen=True, slots=True)
class Account:
    """Whom to ask, with which key."""

    origin: str
    key: Key


def find_account(
    environ: Mapping[str, str],
    home: Path,
    *,
    key_file: Path | None = None,
    api_url: str | None = None,
    profile: str | None = None,
) -> Account:
    """Find key and origin.

    Raises:
        CredentialError: none is found, a file cannot be read or is open to others, or the origin is unsafe.
    """
    # Absolute: they are read again by a process that has left this directory.
    config = Path(os.path.abspath(environ.get("RESCALE_CONFIG_FILE") or home / ".config" / "rescale" / "apiconfig"))
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(credentials, "rescale-api-key") if credentials else None
    if key_file is not None:
        path = Path(os.path.abspath(key_file))
        key = Key(lambda: _key_in(path), str(path))
    elif profile is None and environ.get("RESCALE_API_KEY"):
        _check_environment_file(environ)
        value = _checked(environ["RESCALE_API_KEY"], "RESCALE_API_KEY")
        key = Key(lambda: value, "RESCALE_API_KEY")
    elif profile is None and credential is not None and _exists(credential):
        key = Key(lambda: _checked(_text_of(credential), str(credential)), "systemd credential")
    elif _profile(config, profile, is_secret=True) is not None:
        key = Key(lambda: _profile_key(config, profile), f"{config} [{profile or 'default'}]")
    else:
        raise CredentialError(
            "no API key: set RESCALE_API_KEY, or pass --key-file FILE, "
            f"or write a [default] profile with apikey into {config}"
        )
    named = api_url or (environ.get("RESCALE_API_URL") if profile is None else None)
    if named is None:
        section = _profile(config, profile, is_secret=False) or {}
        named = next((section[name] for name in _ORIGIN_NAMES if name in section), None)
    return Account(_origin(named or DEFAULT_ORIGIN), key)


def _profile(config: Path, profile: str | None, *, is_secret: bool) -> Mapping[str, str] | None:
    """Return the profile's settings; None if it was not named and does not exist.

    Only where the key is taken from it (*is_secret*) must the file be closed to other users.
    """
    if not _exists(config):
        if profile is not None:
            raise CredentialError(f"profile {profile!r} was asked for, but there is no {config}")
        return None
    parser = configparser.ConfigParser(interpolation=None)  # a "%" in a value is a "%"
    try:
        parser.read_string(_private_text_of(config) if is_secret else _text_of(config))
    except configparser.Error as error:
        raise CredentialError(f"{config} is not an apiconfig file: {str(error).splitlines()[0]}") from None
    name = profile or "default"
    if not parser.has_section(name):
        if profile is not None:
            raise CredentialError(f"there is no profile [{profile}] in {config}; it has {parser.sections()}")
        return None
    return {option: value.strip().strip("'\"") for option, value in parser.items(name)}


def _profile_key(config: Path, profile: str | None) -> str:
    section = _profile(config, profile, is_secret=True) or {}
    value = next((section[name] for name in _KEY_NAMES if name in section), "")
    return _checked(value, f"[{profile or 'default'}] in {config}")


def _key_in(path: Path) -> str:
    return _checked(_private_text_of(path), str(path))


def _check_environment_file(environ: Mapping[str, str]) -> None:
    path = Path(environ.get(ENVIRONMENT_FILE, ""))
    if environ.get(ENVIRONMENT_FILE) and _exists(path):
        _check_mode(path, path.stat())


def _private_text_of(path: Path) -> str:
    """Read a file that holds a secret, refusing one that other users may read."""
    try:
        with path.open("rb") as file:
            _check_mode(path, os.fstat(file.fileno()))  # of what is read, whatever takes its name meanwhile
            return file.read().decode()
    except OSError as error:
        raise CredentialError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CredentialError(f"{path} is not a text file") from None


def _check_mode(path: Path, info: os.stat_result) -> None:
    if stat.S_ISREG(info.st_mode) and info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CredentialError(f"{path} can be read by other users: run  chmod 600 {path}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # such as a directory on the way that may not be searched
        raise CredentialError(f"cannot read {path}: {error.strerror}") from None


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CredentialError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CredentialError(f"{path} is not a text file") from None


def _checked(text: str, source: str) -> str:
    value = text.strip()
    if not value:
        raise CredentialError(f"the API key in {source} is empty")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise CredentialError(f"the API key in {source} has characters that no key has")
    return value


def _origin(url: str) -> str:
    """Return scheme, host and port of *url*; https unless the host is this machine itself."""
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        host, port = parts.hostname, parts.port
        if "[" in parts.netloc:
            ipaddress.IPv6Address(host or "")  # Python 3.10 takes anything between brackets
    except ValueError:
        raise CredentialError(_no_address(url)) from None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise CredentialError(_no_address(url))
    if parts.scheme == "http" and not is_loopback(host):
        raise CredentialError(f"{url} would send the key unencrypted: use https")
    name = f"[{host}]" if ":" in host else host
    origin = f"{parts.scheme}://{name}" + (f":{port}" if port is not None else "")
    if not _API_PATH.fullmatch(parts.path):  # not shown: it may hold a key
        raise CredentialError(f"the address of a Rescale platform ends with its host: write {origin}")
    return origin


def _no_address(url: str) -> str:
    shown = url.rpartition("@")[2]  # before it may stand a key
    return f"{shown!r} is not the address of a Rescale platform, such as {DEFAULT_ORIGIN}"


def is_loopback(host: str) -> bool:
    """True if *host* is this machine by name or number, without asking a resolver."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
