"""Models from the API's JSON: whatever it sends is a model or `Corrupt`, never another error."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rescalefs.emulator.clock import iso
from rescalefs.errors import Corrupt
from rescalefs.models import Digest, Job, RemoteFile, Run, Status, Variable, parse_time_ns
from rescalefs.names import escape
from rescalefs.tree import Branch, build_tree

# What json.loads can give: half surrogate pairs, NaN and numbers of any length too.
TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(["", "\0", "\ud800", "..", "/", "9" * 5000, "-1", "１"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just(10**400)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))

# A right value for each field; a fuzzed row takes some of these and breaks others.
FIELDS: dict[type, dict[str, Any]] = {
    Job: {
        "id": "AbCdE",
        "name": "wing / case 1",
        "owner": "u@example.com",
        "dateInserted": "2024-05-02T10:11:12.131415Z",
        "analysisNames": ["OpenFOAM"],
        "jobStatus": {"content": "Executing"},
    },
    Run: {
        "id": "1",
        "dateStarted": "2024-05-02T10:20:03Z",
        "dateInserted": None,
        "dateCompleted": None,
        "displayOrder": 1,
        "outputFileCount": 0,
        "outputFileSize": None,
        "variables": [{"name": "x", "value": 1.5}],
    },
    RemoteFile: {
        "id": "dmpTse",
        "name": "nut",
        "relativePath": "airFoil2D/0/nut",
        "typeId": 5,
        "decryptedSize": 1278,
        "dateUploaded": "2024-05-02T11:00:10.641761Z",
        "isUploaded": True,
        "isDeleted": False,
        "path": "user/user_X/output/job_AbCdE/run1/airFoil2D/0/nut",
        "md5": "0" * 32,
        "fileChecksums": [{"hashFunction": "sha512", "fileHash": "ab" * 64}],
    },
    Status: {"status": "Completed", "statusDate": "2024-05-02T11:00:00.500000+00:00"},
}
KINDS = list(FIELDS)


@st.composite
def rows(draw: st.DrawFn, kind: type) -> dict[str, Any]:
    """A right row with some of its fields left out, and some replaced by any JSON."""
    row = dict(FIELDS[kind])
    for key in draw(st.sets(st.sampled_from(sorted(row)), max_size=3)):
        row[key] = draw(JSON)
    for key in draw(st.sets(st.sampled_from(sorted(row)), max_size=2)):
        del row[key]
    return row


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_any_json_is_a_model_or_corrupt(kind: Any, data: st.DataObject) -> None:
    """No answer makes another error than `Corrupt`, and what a model holds is of the types it names."""
    item = data.draw(rows(kind) | JSON)
    try:
        model = kind.from_api(item)
    except Corrupt:
        return
    hash(model)  # views are compared as sets
    for value in (getattr(model, name) for name in ("id", "name", "owner", "path", "text") if hasattr(model, name)):
        assert isinstance(value, str)
    if isinstance(model, RemoteFile):
        assert 0 <= model.size < 2**63


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_row_is_a_model(kind: Any) -> None:
    """The rows that the fuzz starts from are good, and any field but the id may be absent or null."""
    row = FIELDS[kind]
    assert kind.from_api(row)
    for key in row.keys() - {"id"}:
        assert kind.from_api({**row, key: None})
        assert kind.from_api({name: value for name, value in row.items() if name != key})


@pytest.mark.parametrize("kind", [Job, Run, RemoteFile])
@pytest.mark.parametrize("id", [None, True, 1.5, [], {}])
def test_a_row_without_an_id_is_corrupt(kind: Any, id: object) -> None:
    """Nothing can be asked for without an id, so none is made up."""
    with pytest.raises(Corrupt):
        kind.from_api({**FIELDS[kind], "id": id})


WRONG: list[tuple[Any, str, object]] = [
    (Job, "analysisNames", 5),
    (Job, "analysisNames", "OpenFOAM"),
    (Job, "jobStatus", "Executing"),
    (Job, "jobStatus", {"content": 5}),
    (Job, "dateInserted", 1714644672),
    (Run, "variables", 5),
    (Run, "variables", {"name": "x"}),
    (Run, "variables", [None]),
    (Run, "variables", [{"value": 1}]),
    (Run, "displayOrder", -1),
    (Run, "dateCompleted", False),
    (RemoteFile, "relativePath", ["a"]),
    (RemoteFile, "name", 5),
    (RemoteFile, "path", 5),
    (Status, "status", {}),
    (Status, "statusDate", "yesterday"),
]


@pytest.mark.parametrize(("kind", "key", "value"), WRONG)
def test_a_field_of_the_wrong_type_is_corrupt(kind: Any, key: str, value: object) -> None:
    """A field is not guessed at."""
    with pytest.raises(Corrupt):
        kind.from_api({**FIELDS[kind], key: value})


# Sizes.

SIZES = [
    (0, 0),
    (1278, 1278),
    ("1278", 1278),
    ("007", 7),
    (None, 0),
    (2**63 - 1, 2**63 - 1),
    (str(2**63 - 1), 2**63 - 1),
]
NO_SIZES = [-1, 2**63, str(2**63), 1.0, True, "", "-1", "1e3", " 1", "１", "0x10", "9" * 5000, float("nan"), [], {}]


@pytest.mark.parametrize(("sent", "size"), SIZES)
def test_a_size_may_come_as_text(sent: object, size: int) -> None:
    """A whole number is one with or without quotes; a size that is absent is 0."""
    assert RemoteFile.from_api({"id": "f", "decryptedSize": sent}).size == size


@pytest.mark.parametrize("sent", NO_SIZES, ids=lambda sent: repr(sent)[:20])
def test_a_size_that_no_file_has_is_corrupt(sent: object) -> None:
    """Neither fractions nor signs, nor digits of other scripts, nor more than a file can have."""
    with pytest.raises(Corrupt):
        RemoteFile.from_api({"id": "f", "decryptedSize": sent})


# Times.

MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@given(MOMENTS, ZONES)
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999), timezone.utc)
def test_a_time_is_read_to_the_nanosecond(moment: datetime, zone: timezone) -> None:
    """Every ISO form of a moment in every zone is the same number, before 1970 too."""
    local = moment.replace(tzinfo=zone)
    expected = (local - EPOCH) // timedelta(microseconds=1) * 1000
    text = local.isoformat()
    forms = [text, text.replace("T", " "), text[:-3] + text[-2:]]
    assert {parse_time_ns(form) for form in forms} == {expected}
    if zone.utcoffset(None) == timedelta():
        assert parse_time_ns(text[:-6] + "Z") == parse_time_ns(text[:-6]) == expected


@given(st.integers(0, 4 * 10**15).map(lambda us: us / 10**6), st.sampled_from(["Z", "+00:00", "-07:00", "+05:30"]))
def test_a_time_of_the_emulator_is_read(seconds: float, zone: str) -> None:
    """Times as the API writes them, with the fraction left out when it is zero, come back."""
    assert parse_time_ns(iso(seconds, zone)) == round(seconds * 10**6) * 1000


FRACTIONS = [("5", 500_000_000), ("123456789", 123_456_789), ("000000001", 1), ("1234567899", 123_456_789)]


@pytest.mark.parametrize(("digits", "ns"), FRACTIONS)
def test_a_fraction_may_have_any_digits(digits: str, ns: int) -> None:
    """One digit or nine; what is below a nanosecond is dropped."""
    assert parse_time_ns(f"1970-01-01T00:00:00.{digits}Z") == ns


NO_TIMES: list[object] = [
    "now", "2024-05-02", "2024-13-02T00:00:00Z", "2024-05-02T25:00:00Z", "2024-05-02T00:00:00+99:00",
    "2024-05-02T00:00:00.Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2024-05-02T00:00:00Z ",
    0, True, 1.5, [], {},
]  # fmt: skip


@pytest.mark.parametrize("sent", NO_TIMES)
def test_what_is_no_time_is_corrupt(sent: object) -> None:
    """No time is made up for a senseless one."""
    with pytest.raises(Corrupt):
        parse_time_ns(sent)


@pytest.mark.parametrize("sent", [None, ""])
def test_an_absent_time_is_none(sent: object) -> None:
    """Null and the empty text are no time, and no error."""
    assert parse_time_ns(sent) is None


# Checksums.

SHA512, MD5 = "ab" * 64, "cd" * 16
CHECKSUMS: list[tuple[dict[str, Any], Digest | None]] = [
    ({}, None),
    ({"md5": MD5}, Digest("md5", bytes.fromhex(MD5))),
    ({"md5": MD5.upper()}, Digest("md5", bytes.fromhex(MD5))),
    ({"md5": MD5[:-1]}, None),
    ({"md5": MD5 + "\n"}, None),
    ({"md5": "é" * 32}, None),
    ({"md5": 5, "fileChecksums": None}, None),
    ({"fileChecksums": 5}, None),
    ({"fileChecksums": "sha512"}, None),
    ({"fileChecksums": {"hashFunction": "sha512", "fileHash": SHA512}}, None),
    ({"fileChecksums": [None, 5, [], {}]}, None),
    ({"fileChecksums": [{"hashFunction": "crc32", "fileHash": "00"}]}, None),
    ({"fileChecksums": [{"hashFunction": "SHA-512", "fileHash": SHA512}]}, Digest("sha512", bytes.fromhex(SHA512))),
    ({"fileChecksums": [{"hashFunction": "sha512", "fileHash": "?"}], "md5": MD5}, Digest("md5", bytes.fromhex(MD5))),
    ({"fileChecksums": [{"hashFunction": "sha512", "fileHash": SHA512}], "md5": MD5}, Digest("sha512", b"\xab" * 64)),
]


@pytest.mark.parametrize(("fields", "digest"), CHECKSUMS)
def test_the_strongest_good_checksum_counts(fields: dict[str, Any], digest: Digest | None) -> None:
    """A checksum that is malformed or unknown is as good as none, and hides no other."""
    assert RemoteFile.from_api({"id": "f", **fields}).digest == digest


# Paths, runs, flags.

SEGMENTS = st.sampled_from(["", ".", "..", "a", "\0", "\ud800", "x" * 5000, ".rescale", "stop", "é\n"])


@given(st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join))
@example("/etc/passwd")
@example("../../../root/.ssh/id_rsa")
def test_a_path_is_kept_and_shown_below_the_run(path: str) -> None:
    """A hostile path stays what the API said; the names it is shown under lead nowhere else, and none is lost."""
    file = RemoteFile.from_api({"id": "f", "name": "n", "relativePath": path})
    assert file.path == (path or "n")
    branch = build_tree([file])
    names = []
    while True:
        ((name, entry),) = branch.entries.items()
        names.append(name)
        if not isinstance(entry, Branch):
            break
        branch = entry
    assert len(names) == len(file.path.split("/"))
    assert not {"", ".", ".."} & set(names)
    assert all("\0" not in name and "/" not in name and len(name.encode()) <= 255 for name in names)


@pytest.mark.parametrize(("fields", "path"), [({}, ""), ({"name": "n"}, "n"), ({"name": "n", "relativePath": ""}, "n")])
def test_a_file_without_a_path_has_its_name(fields: dict[str, Any], path: str) -> None:
    """`relativePath` may be null or absent; a file without any name is shown all the same."""
    file = RemoteFile.from_api({"id": "f", **fields})
    assert file.path == path
    assert list(build_tree([file]).entries) == [escape(path)]


KEYS = [("user/u/output/job_J/run3/a/run4/b", "3"), ("user/u/input/x", None), ("../run1/", None), ("", None)]


@pytest.mark.parametrize(("key", "run"), KEYS)
def test_a_storage_key_names_the_run(key: str, run: str | None) -> None:
    """A job's files tell their run, where the storage key has it."""
    assert RemoteFile.from_api({"id": "f", "path": key}).run_id == run


def test_flags_are_true_or_false_only() -> None:
    """A file counts as uploaded when that is said or nothing is; as deleted only when that is said."""
    flags: Callable[..., tuple[bool, bool]] = lambda **fields: (  # noqa: E731
        RemoteFile.from_api({"id": "f", **fields}).is_uploaded,
        RemoteFile.from_api({"id": "f", **fields}).is_deleted,
    )
    assert flags() == (True, False)
    assert flags(isUploaded=False, isDeleted=True) == (False, True)
    assert flags(isUploaded="yes", isDeleted="no") == (False, False)


def test_a_run_is_read_in_its_odd_forms() -> None:
    """A number for an id, `dateInserted` for the start and values of every type are taken."""
    run = Run.from_api({"id": 7, "dateInserted": "1970-01-01T00:00:01Z", "variables": [{"name": "x", "value": 0.5}]})
    assert (run.id, run.started_ns, run.variables) == ("7", 10**9, (Variable("x", "0.5"),))


def test_the_secret_of_a_row_is_dropped() -> None:
    """The encryption key of a file is kept nowhere."""
    assert "hush" not in repr(RemoteFile.from_api({"id": "f", "encodedEncryptionKey": "hush", "iv": "hush"}))
