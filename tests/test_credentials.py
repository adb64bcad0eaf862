"""Where key and origin come from, what is refused, and that no error, repr or log shows a key."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescalefs.credentials import (
    DEFAULT_ORIGIN,
    ENVIRONMENT_FILE,
    Account,
    CredentialError,
    Key,
    find_account,
    is_loopback,
)

SECRET = "0123456789abcdef0123456789abcdef01234567"
ORIGIN = "https://eu.rescale.com"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The place of apiconfig below the home directory, with the rights that it needs."""
    path = tmp_path / ".config/rescale/apiconfig"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    return path


def key_of(account: Account) -> str:
    return account.key.authorization.removeprefix("Token ")


# Sources and their order.


def test_the_environment_gives_key_and_origin(tmp_path: Path) -> None:
    """RESCALE_API_KEY and RESCALE_API_URL are enough."""
    account = find_account({"RESCALE_API_KEY": f" {SECRET}\n", "RESCALE_API_URL": ORIGIN}, tmp_path)
    assert (key_of(account), account.origin) == (SECRET, ORIGIN)


def test_a_profile_gives_key_and_origin(tmp_path: Path, config: Path) -> None:
    """The default profile of apiconfig is enough, quotes or none."""
    config.write_text(f"[default]\napibaseurl = {ORIGIN}/\napikey = '{SECRET}'\n")
    account = find_account({}, tmp_path)
    assert (key_of(account), account.origin) == (SECRET, ORIGIN)
    assert str(config) in account.key.source


@pytest.mark.parametrize("names", [("apikey", "apibaseurl"), ("api_key", "platform_url"), ("APIKEY", "apiurl")])
def test_a_profile_may_be_written_by_any_client(tmp_path: Path, config: Path, names: tuple[str, str]) -> None:
    """The names that Rescale's clients write are all taken."""
    config.write_text(f"[default]\n{names[0]}: {SECRET}\n{names[1]}: {ORIGIN}\n")
    account = find_account({}, tmp_path)
    assert (key_of(account), account.origin) == (SECRET, ORIGIN)


def test_a_percent_sign_in_a_profile_is_itself(tmp_path: Path, config: Path) -> None:
    """Nothing in a value is replaced by something else."""
    config.write_text("[default]\napikey = a%(other)s%%b%\nother = x\n")
    assert key_of(find_account({}, tmp_path)) == "a%(other)s%%b%"


def test_each_source_goes_before_the_next(tmp_path: Path, config: Path) -> None:
    """Key file, environment, systemd credential, profile: the first that is there counts."""
    config.write_text("[default]\napikey = of-profile\n")
    (tmp_path / "rescale-api-key").write_text("of-systemd\n")
    key_file = tmp_path / "key"
    key_file.touch(mode=0o600)
    key_file.write_text("of-file\n")
    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    both = {**systemd, "RESCALE_API_KEY": "of-environment"}
    assert key_of(find_account(both, tmp_path, key_file=key_file)) == "of-file"
    assert key_of(find_account(both, tmp_path)) == "of-environment"
    assert key_of(find_account(systemd, tmp_path)) == "of-systemd"
    assert key_of(find_account({"CREDENTIALS_DIRECTORY": str(config.parent)}, tmp_path)) == "of-profile"


def test_a_named_profile_goes_before_the_environment(tmp_path: Path, config: Path) -> None:
    """Who names a profile means its key and its origin, unless --api-url says otherwise."""
    config.write_text(f"[eu]\napikey = of-profile\napibaseurl = {ORIGIN}\n[us]\napikey = us\n")
    environ = {"RESCALE_API_KEY": "of-environment", "RESCALE_API_URL": "https://kr.rescale.com"}
    account = find_account(environ, tmp_path, profile="eu")
    assert (key_of(account), account.origin) == ("of-profile", ORIGIN)
    assert find_account(environ, tmp_path, profile="us").origin == DEFAULT_ORIGIN
    assert find_account(environ, tmp_path, profile="eu", api_url="https://it.example").origin == "https://it.example"


def test_apiconfig_may_be_elsewhere(tmp_path: Path, config: Path) -> None:
    """RESCALE_CONFIG_FILE names another file."""
    config.write_text(f"[default]\napikey = {SECRET}\n")
    assert key_of(find_account({"RESCALE_CONFIG_FILE": str(config)}, tmp_path / "nobody")) == SECRET


def test_an_open_apiconfig_may_give_the_origin(tmp_path: Path, config: Path) -> None:
    """Only where the key is taken from it must a file be closed to others."""
    config.write_text(f"[default]\napibaseurl = {ORIGIN}\n")
    config.chmod(0o644)
    assert find_account({"RESCALE_API_KEY": SECRET}, tmp_path).origin == ORIGIN


# What is refused, and in which words.

BAD_PROFILES = {
    "another profile alone": (f"[other]\napikey = {SECRET}\n", "no API key: set RESCALE_API_KEY"),
    "no section": (f"apikey = {SECRET}\n", "not an apiconfig file"),
    "the key alone": (SECRET, "not an apiconfig file"),
    "a key twice": (f"[default]\napikey = {SECRET}\napikey = {SECRET}\n", "not an apiconfig file"),
    "a line that is none": (f"[default]\n{SECRET}\n", "not an apiconfig file"),
    "no key": ("[default]\napibaseurl = https://x\n", "is empty"),
    "an empty key": ("[default]\napikey = ''\n", "is empty"),
    "two words": (f"[default]\napikey = Token {SECRET}\n", "characters that no key has"),
    "a key of another script": (f"[default]\napikey = {SECRET}\u00e9\n", "characters that no key has"),
    "two lines": (f"[default]\napikey = {SECRET}\n  more\n", "characters that no key has"),
}


@pytest.mark.parametrize(("text", "words"), BAD_PROFILES.values(), ids=BAD_PROFILES)
def test_a_bad_profile_is_told_without_its_key(tmp_path: Path, config: Path, text: str, words: str) -> None:
    """The error is one sentence that names the trouble and the file, never the key."""
    config.write_text(text)
    with pytest.raises(CredentialError, match=words) as caught:
        find_account({}, tmp_path)
    assert str(config) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, config: Path, mode: int) -> None:
    """Key file and apiconfig must be closed to other users; the remedy is told."""
    config.write_text(f"[default]\napikey = {SECRET}\n")
    config.chmod(mode)
    for key_file in (None, config):
        with pytest.raises(CredentialError, match=f"chmod 600 {config}"):
            find_account({}, tmp_path, key_file=key_file)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, config: Path) -> None:
    """A missing key file, a directory, bytes that are no text and a name too long are errors of ours."""
    config.write_bytes(b"\xff" + SECRET.encode())
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "directory"), (config, "not a text file")):
        with pytest.raises(CredentialError, match=words) as caught:
            find_account({}, tmp_path, key_file=path)
        assert SECRET not in str(caught.value)
    with pytest.raises(CredentialError, match="too long"):
        find_account({"RESCALE_CONFIG_FILE": "x" * 5000}, tmp_path)


def test_a_profile_that_does_not_exist_is_told(tmp_path: Path, config: Path) -> None:
    """The error names the profiles that there are, or that there is no file."""
    config.write_text(f"[eu]\napikey = {SECRET}\n")
    with pytest.raises(CredentialError, match=r"no profile \[us\].*'eu'"):
        find_account({}, tmp_path, profile="us")
    config.unlink()
    with pytest.raises(CredentialError, match="there is no"):
        find_account({}, tmp_path, profile="eu")


@pytest.mark.parametrize("value", [" ", "Token " + SECRET, SECRET + "\n" + SECRET, SECRET + "\u200b"])
def test_a_bad_key_of_the_environment_is_told_without_it(tmp_path: Path, value: str) -> None:
    """A key that no header can carry is refused before anything is sent."""
    with pytest.raises(CredentialError, match="RESCALE_API_KEY") as caught:
        find_account({"RESCALE_API_KEY": value}, tmp_path)
    assert SECRET not in str(caught.value)


# Origins.

GOOD_ORIGINS = [
    ("platform.rescale.com", DEFAULT_ORIGIN),
    ("HTTPS://Platform.Rescale.com/api/v2/?x#y", DEFAULT_ORIGIN),
    ("https://platform.rescale.com//", DEFAULT_ORIGIN),
    ("https://platform.rescale.com/api/v3", DEFAULT_ORIGIN),
    ("platform.rescale.com/api", DEFAULT_ORIGIN),
    ("https://platform.rescale.com:8443/", "https://platform.rescale.com:8443"),
    ("http://localhost:8000", "http://localhost:8000"),
    ("http://127.0.0.2", "http://127.0.0.2"),
    ("http://[::1]:80", "http://[::1]:80"),
]
BAD_ORIGINS = [
    "http://platform.rescale.com",
    "http://localhost.example.com",
    "http://127.0.0.1.example.com",
    "http://0.0.0.0",
    f"https://{SECRET}@platform.rescale.com",
    f"https://user:{SECRET}@platform.rescale.com",
    f"http://localhost:{SECRET}@example.com",
    "ftp://platform.rescale.com",
    "file:///etc/passwd",
    "https://",
    "https://:443",
    "https://[::1",
    "https://[nonsense]/",
    "https://x:port",
    "https://x:99999",
]


@pytest.mark.parametrize(("url", "origin"), GOOD_ORIGINS)
def test_an_origin_is_scheme_host_and_port(tmp_path: Path, url: str, origin: str) -> None:
    """The API's own path and queries are dropped; https is meant where nothing is said."""
    assert find_account({"RESCALE_API_KEY": SECRET}, tmp_path, api_url=url).origin == origin


@pytest.mark.parametrize(
    "path", [f"/{SECRET}", "/api/v2/jobs/", "/rescale/api/v2", "/api/version", "//api/v2x", "/%2e"]
)
def test_an_address_with_a_path_is_refused(tmp_path: Path, path: str) -> None:
    """It would be left out, so that another server is asked than is meant; the sentence says what to write."""
    for begin in ("https://eu.rescale.com:8443", "eu.rescale.com:8443"):
        with pytest.raises(CredentialError, match=r"write https://eu\.rescale\.com:8443$") as caught:
            find_account({"RESCALE_API_KEY": "k"}, tmp_path, api_url=begin + path)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", BAD_ORIGINS)
def test_an_unsafe_origin_is_refused(tmp_path: Path, url: str) -> None:
    """The key goes nowhere unencrypted but to this machine, and what is no address is told so, without a key in it."""
    with pytest.raises(CredentialError, match=r"use https$|is not the address of a Rescale platform") as caught:
        find_account({"RESCALE_API_KEY": "k"}, tmp_path, api_url=url)
    assert SECRET not in str(caught.value)


@given(st.text(max_size=20) | st.text("htps:/[]@.1a%#?\\", max_size=20))
def test_any_url_is_an_origin_or_an_error(url: str) -> None:
    """No text makes another error; http stays on this machine."""
    try:
        origin = find_account({"RESCALE_API_KEY": "k"}, Path("/nowhere"), api_url=url).origin
    except CredentialError:
        return
    assert origin.startswith("https://") or is_loopback(urlsplit(origin).hostname or "")


# The key itself.


def test_a_jwt_is_a_bearer_token() -> None:
    """The scheme follows from the key's form."""
    assert Key(lambda: "eyJhb.eyJzd.sig", "a test").authorization == "Bearer eyJhb.eyJzd.sig"
    for text in ("eyJhb", "eyJhb.x", "x.y.z", SECRET):
        assert Key(lambda text=text: text, "a test").authorization == f"Token {text}"  # type: ignore[misc]


def test_no_form_of_a_key_shows_it(tmp_path: Path) -> None:
    """Neither the key nor the account that holds it shows it in a log."""
    account = find_account({"RESCALE_API_KEY": SECRET}, tmp_path)
    shown = f"{account} {account!r} {account.key} {account.key!r} {account.key.source}"
    assert SECRET not in shown
    assert "RESCALE_API_KEY" in shown


def test_a_key_is_renewed_from_its_file(tmp_path: Path, config: Path) -> None:
    """A file is read again when its key was refused; a file that is gone or bad leaves the old key."""
    config.write_text("[default]\napikey = old\n")
    key = find_account({}, tmp_path).key
    assert not key.renew("Token old")
    config.write_text("[default]\napikey = new\n")
    assert key.authorization == "Token old"
    assert key.renew("Token old")
    assert key.authorization == "Token new"
    assert key.renew("Token old")  # another thread has renewed it: the caller asks again with the new one
    for spoil in (lambda: config.write_text("[default]\napikey =\n"), lambda: config.chmod(0o644), config.unlink):
        spoil()
        assert not key.renew("Token new")
        assert key.authorization == "Token new"


@pytest.mark.parametrize("source", ["key file", "apiconfig"])
def test_a_file_is_found_again_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """A mount in the background leaves the directory that a relative name was meant from."""
    file = tmp_path / "file"
    file.touch(mode=0o600)
    form = "{}\n" if source == "key file" else "[default]\napikey = {}\n"
    file.write_text(form.format(SECRET))
    monkeypatch.chdir(tmp_path)
    if source == "key file":
        account = find_account({}, tmp_path, key_file=Path("file"))
    else:
        account = find_account({"RESCALE_CONFIG_FILE": "file"}, tmp_path)
    file.write_text(form.format("renewed"))
    monkeypatch.chdir("/")
    assert account.key.renew(account.key.authorization)
    assert key_of(account) == "renewed"


def test_a_key_of_the_environment_stays(tmp_path: Path) -> None:
    """What a process was started with cannot be renewed."""
    environ = {"RESCALE_API_KEY": "old"}
    key = find_account(environ, tmp_path).key
    environ["RESCALE_API_KEY"] = "new"
    assert not key.renew("Token old")


def test_an_environment_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """The unit names the file that systemd took the key from; one that is open is refused with the remedy."""
    file = tmp_path / "environment"
    environ = {"RESCALE_API_KEY": SECRET, ENVIRONMENT_FILE: str(file)}
    assert key_of(find_account(environ, tmp_path)) == SECRET  # the file is optional
    file.write_text(f"RESCALE_API_KEY={SECRET}\n")
    for mode in (0o640, 0o604, 0o610):
        file.chmod(mode)
        with pytest.raises(CredentialError) as caught:
            find_account(environ, tmp_path)
        assert f"chmod 600 {file}" in str(caught.value)
        assert SECRET not in str(caught.value)
    file.chmod(0o600)
    assert key_of(find_account(environ, tmp_path)) == SECRET


def test_a_refused_key_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """However many ask; at once again if it was accepted meanwhile. The line says where it is from, not what it is."""
    seconds = [0.0]
    key = Key(lambda: SECRET, "a file", clock=lambda: seconds[0])
    for seconds[0] in range(0, 180, 7):
        key.refused("GET x/: 401 Invalid token.")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    key.refused("again")
    key.accepted()
    key.refused("once more")
    assert len(caplog.records) == 4
    assert "from a file is refused: make a new one" in caplog.text
    assert SECRET not in caplog.text


def test_since_when_a_key_is_refused_is_known() -> None:
    """From the first refusal in a row on, with where it is from and not what it is."""
    now = [1_700_000_000.0]
    key = Key(lambda: SECRET, "a file", wall_clock=lambda: now[0])
    assert key.status is None
    key.refused("GET x/: 401")
    now[0] += 90
    key.refused("GET x/: 401")
    assert key.status == "key refused since 2023-11-14T22:13:20Z: the one from a file"
    key.accepted()
    assert key.status is None
    key.refused("GET x/: 401")
    assert key.status == "key refused since 2023-11-14T22:14:50Z: the one from a file"


def test_a_source_that_cannot_be_read_again_is_told(
    tmp_path: Path, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Why the new key is not used is part of the line."""
    config.write_text("[default]\napikey = old\n")
    key = find_account({}, tmp_path).key
    config.chmod(0o644)
    key.renew("Token old")
    key.refused("GET x/: 401")
    assert f"chmod 600 {config}" in caplog.text


def test_a_text_is_shown_without_the_key() -> None:
    """Neither the key that is used now nor one before it, whole or as the beginning of another."""
    texts = ["secret", "secret-and-more"]
    key = Key(lambda: texts.pop(0), "a file")
    key.renew("")
    assert key.hide("no Token secret-and-more, but secret") == "no Token <key>, but <key>"
