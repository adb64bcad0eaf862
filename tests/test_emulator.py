"""The emulator keeps the API's promises, over real HTTP."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.demo_world import EXAMPLE_JOB, LIVE_JOB, demo_world
from rescalefs.emulator.endpoints import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from rescalefs.emulator.server import Emulator
from rescalefs.emulator.world import World
from tests.emulated import BIG, DATA, LIVE, RUN, Client, id_of, make_world, run_of


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def world(clock: ManualClock) -> World:
    return make_world(clock)


@pytest.fixture
def emu(world: World) -> Iterator[Emulator]:
    with Emulator(world) as emulator:
        yield emulator


@pytest.fixture
def client(emu: Emulator) -> Iterator[Client]:
    client = Client(emu)
    yield client
    client.session.close()


# Who is let in, and where things are.


def test_key_is_asked_first(emu: Emulator) -> None:
    url = emu.origin + "/api/v2/users/me/"
    none = requests.get(url, timeout=20)
    assert (none.status_code, none.headers["WWW-Authenticate"]) == (401, "Token")
    assert none.json() == {"detail": "Authentication credentials were not provided."}
    for header in ("Token wrong", f"Bearer {emu.key}", emu.key):
        wrong = requests.get(url, headers={"Authorization": header}, timeout=20)
        assert (wrong.status_code, wrong.json()) == (401, {"detail": "Invalid token."})
    assert requests.get(url, headers=emu.headers, timeout=20).json()["email"] == emu.world.user
    assert [request.scheme for request in emu.log] == [None, "Token", "Bearer", emu.key, "Token"]
    assert requests.post(url, timeout=20).status_code == 401


def test_bearer_for_a_jwt(world: World) -> None:
    with Emulator(world, key="eyJh.eyJz.c2ln") as emu:
        for scheme in ("Bearer", "Token"):
            headers = {"Authorization": f"{scheme} {emu.key}"}
            assert requests.get(emu.origin + "/api/v2/users/me/", headers=headers, timeout=20).ok


def test_every_version_and_slash(client: Client) -> None:
    for prefix in ("/api/v2", "/api/v3", "/api"):
        assert client.get(f"{prefix}/jobs/").json()["count"] == 1
        moved = client.get(f"{prefix}/jobs/AbCdE/runs?page_size=1")
        assert (moved.status_code, moved.headers["Location"]) == (301, f"{prefix}/jobs/AbCdE/runs/?page_size=1")
    assert client.get("/api/v4/jobs/").status_code == 404
    assert client.get("/api/v2/jobs/AbCdE/runs/2/tail/log").content == b"one\ntwo\n"
    assert client.get("/api/v2/jobs/AbCdE/runs/2/tail/log/").content == b"one\ntwo\n"


def test_post_needs_its_slash_and_its_method(client: Client) -> None:
    assert client.post(LIVE + "stop").status_code == 404
    assert client.post("/api/v3/jobs/AbCdE/runs/2/stop/").status_code == 404
    refused = client.get(LIVE + "stop/")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert client.post(RUN + "files/").status_code == 405
    assert run_of(client.emu, "2").is_live()


@pytest.mark.parametrize("path", ["jobs/abcde/", "jobs/AbCdE/runs/3/", "files/nope/", "files/nope/contents/", "x/"])
def test_what_is_not_there(client: Client, path: str) -> None:
    answer = client.get(f"/api/v2/{path}")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."})


# Pages.


def test_pages_of_ten_by_default(client: Client, emu: Emulator) -> None:
    first = client.get(RUN + "files/").json()
    assert (first["count"], len(first["results"]), first["previous"]) == (25, DEFAULT_PAGE_SIZE, None)
    assert first["next"] == f"{emu.origin}{RUN}files/?page=2"
    second = client.get(first["next"]).json()
    assert second["previous"] == f"{emu.origin}{RUN}files/"
    assert [row["relativePath"] for row in client.rows(RUN + "files/")] == [
        file.relative_path for file in run_of(emu).files
    ]
    for page in ("4", "0", "-1", "x"):
        beyond = client.get(f"{RUN}files/?page={page}")
        assert (beyond.status_code, beyond.json()) == (404, {"detail": "Invalid page."})


def test_page_size_is_kept_and_clamped(client: Client, emu: Emulator) -> None:
    run = emu.world.jobs["AbCdE"].add_run(finished=True)
    for number in range(MAX_PAGE_SIZE + 5):
        run.add_file(str(number), b"x")
    page = client.get("/api/v2/jobs/AbCdE/runs/3/files/?page_size=9999").json()
    assert len(page["results"]) == MAX_PAGE_SIZE
    assert page["next"].endswith("?page_size=9999&page=2")
    assert len(client.rows("/api/v2/jobs/AbCdE/files/?page_size=1000")) == MAX_PAGE_SIZE + 5 + 25
    assert emu.requests["job_files"] == 2
    assert emu.requests["run_files"] == 1


def test_next_is_on_the_host_that_was_asked(client: Client) -> None:
    page = client.get(RUN + "files/", headers={"Host": "LocalHost:1"}).json()
    assert page["next"].startswith("http://LocalHost:1/api/v2/")
    assert page["results"][0]["downloadUrl"].startswith("http://LocalHost:1/api/v2/files/")


def test_search(client: Client) -> None:
    page = client.get("/api/v2/jobs/AbCdE/files/?search=b.tx").json()
    assert [row["name"] for row in page["results"]] == ["b.txt"]
    assert client.get(RUN + "files/?search=many/2").json()["count"] == 2


def test_json_is_gzipped_when_asked_and_big(client: Client) -> None:
    path = RUN + "files/?page_size=1000"
    answer = client.get(path, headers={"Accept-Encoding": "gzip"}, stream=True)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer.raw.read())) == client.get(path).json()
    small = client.get("/api/v2/users/me/", headers={"Accept-Encoding": "gzip"})
    contents = client.get(f"/api/v2/files/{id_of(client.emu, 'data')}/contents/", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in small.headers
    assert "Content-Encoding" not in contents.headers


# Jobs and runs.


def test_job_list_and_filters(client: Client, world: World, clock: ManualClock) -> None:
    world.add_job("Draft", submitted=False, created=clock.now() - 5, owner="other@example.com")
    draft, wing = client.rows("/api/v2/jobs/")
    assert (draft["id"], draft["jobStatus"]["content"], draft["clusterStatusDisplay"]) == ("Draft", "", None)
    assert draft["sharedWith"] == [world.user]
    assert (wing["jobStatus"]["content"], wing["clusterStatusDisplay"]["content"]) == ("Executing", "Started")
    assert "statusReason" not in wing["jobStatus"]
    assert "statusReason" in client.rows("/api/v3/jobs/")[0]["jobStatus"]
    query = "/api/v2/jobs/?job_status=EXECUTING&state=not_completed"
    assert [row["id"] for row in client.rows(query)] == ["AbCdE"]
    client.emu.habits.honours_job_filters = False
    assert len(client.rows(query)) == 2
    assert "jobStatus" not in client.get("/api/v2/jobs/AbCdE/").json()


def test_life_of_a_job(client: Client, world: World, clock: ManualClock) -> None:
    stages = {"Pending": 0, "Queued": 10, "Started": 20, "Validated": 30, "Executing": 40}
    job = world.add_job("LifeX", submitted=clock.now(), stages=stages)
    run = job.add_run(live={"log": b"x"})
    run.completed = run.started + 100
    path = "/api/v2/jobs/LifeX/"

    def seen() -> tuple[str, int, int]:
        statuses = client.rows(path + "statuses/")
        cluster = client.get(path + "cluster_statuses/")
        return statuses[0]["status"], cluster.status_code, client.get(path + "runs/").json()["count"]

    assert seen() == ("Pending", 404, 0)
    clock.advance(10)
    assert seen() == ("Queued", 200, 0)
    clock.advance(30)
    assert seen() == ("Executing", 200, 1)
    live = client.get(path + "runs/1/").json()
    assert (live["dateCompleted"], live["outputFileCount"], live["outputFileSize"]) == (None, 0, None)
    clock.advance(100)
    assert seen() == ("Completed", 200, 1)
    done = client.get(path + "runs/1/").json()
    assert (done["dateCompleted"], done["outputFileCount"], done["outputFileSize"]) == (
        "2023-11-14T22:15:40Z",
        1,
        1,
    )
    status = client.rows(path + "statuses/")[0]
    assert status["statusReason"] == "Completed successfully"
    assert status["statusDate"] == "2023-11-14T22:15:40+00:00"
    clock.advance(46)
    assert [row["status"] for row in client.rows(path + "cluster_statuses/")[:3]] == [
        "Stopped",
        "Stopping",
        "Stop Requested",
    ]


# Files and their bytes.


def test_file_rows_are_true(client: Client, emu: Emulator) -> None:
    for row in client.rows(RUN + "files/"):
        data = client.get(row["downloadUrl"]).content
        assert row["decryptedSize"] == len(data)
        assert row["fileChecksums"] == [{"hashFunction": "sha512", "fileHash": hashlib.sha512(data).hexdigest()}]
        assert client.get(f"/api/v2/files/{row['id']}/").json() == row
        assert row["path"].endswith(f"/job_AbCdE/run1/{row['relativePath']}")
    assert emu.requests["contents"] == 25
    assert emu.bytes_sent["contents"] == sum(file.content.size for file in run_of(emu).files)


def test_rows_follow_the_file(client: Client, emu: Emulator, clock: ManualClock) -> None:
    file = run_of(emu).files[0]
    url = f"/api/v2/files/{file.id}/"
    file.checksum, file.declared_size, file.relative_path = "md5", 99, None
    row = client.get(url).json()
    assert (row["decryptedSize"], row["relativePath"], row["name"]) == (99, None, "b.txt")
    assert row["md5"] == hashlib.md5(b"hello\nworld").hexdigest()  # noqa: S324
    assert "fileChecksums" not in row
    file.is_deleted = True
    assert client.get(url).json()["isDeleted"] is True
    assert client.contents(file.id).status_code == 404
    file.is_deleted, file.date_uploaded = False, clock.now() + 5
    assert client.get(url).json()["isUploaded"] is False
    assert client.contents(file.id).status_code == 404
    clock.advance(5)
    assert client.get(url).json()["isUploaded"] is True
    assert client.contents(file.id).content == b"hello\nworld"


def test_lines(client: Client, emu: Emulator) -> None:
    answer = client.get(f"/api/v2/files/{id_of(emu, 'a/b.txt')}/lines/")
    assert answer.json() == {"lines": ["hello\n", "world"]}


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-", 10, 100_000),
        ("bytes=99999-200000", 99_999, 100_000),
        ("bytes=-5", 99_995, 100_000),
        ("bytes=-200000", 0, 100_000),
    ],
)
def test_range(client: Client, emu: Emulator, wanted: str, start: int, stop: int) -> None:
    answer = client.contents(id_of(emu, "data"), wanted)
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/100000"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.content == DATA.read(start, stop)


@pytest.mark.parametrize("wanted", ["bytes=100000-", "bytes=-0", "bytes=200000-300000"])
def test_range_beyond_the_end(client: Client, emu: Emulator, wanted: str) -> None:
    answer = client.contents(id_of(emu, "data"), wanted)
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */100000")
    assert client.contents(id_of(emu, "none"), "bytes=0-").status_code == 416


@pytest.mark.parametrize("wanted", ["bytes=5-1", "bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=a-b"])
def test_what_is_no_range_is_ignored(client: Client, emu: Emulator, wanted: str) -> None:
    answer = client.contents(id_of(emu, "data"), wanted)
    assert (answer.status_code, len(answer.content)) == (200, 100_000)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(start=st.integers(0, BIG.size - 1), length=st.integers(1, 1_200_000), is_big=st.booleans())
def test_ranges_are_slices(client: Client, emu: Emulator, start: int, length: int, is_big: bool) -> None:
    content, path = (BIG, "big") if is_big else (DATA, "data")
    start %= content.size
    answer = client.contents(id_of(emu, path), f"bytes={start}-{start + length - 1}")
    expected = b"".join(content.blocks())[start : start + length]
    assert answer.status_code == 206
    assert int(answer.headers["Content-Length"]) == len(expected)
    assert answer.content == expected


# The documented example.


def test_documented_example() -> None:
    world = demo_world()
    with Emulator(world) as emu:
        client = Client(emu)
        page = client.get(f"/api/jobs/{EXAMPLE_JOB}/runs/1/files/").json()
        assert (page["count"], page["previous"]) == (63, None)
        assert page["next"] == f"{emu.origin}/api/jobs/{EXAMPLE_JOB}/runs/1/files/?page=2"
        rows = [(row["id"], row["relativePath"], row["decryptedSize"], row["dateUploaded"]) for row in page["results"]]
        assert rows[0] == ("dmpTse", "airFoil2D/0/nut", 1278, "2014-11-12T22:56:50.641761Z")
        assert rows[9] == ("LosKDe", "airFoil2D/100/uniform/time", 968, "2014-11-12T22:56:51.222466Z")
        assert [row[0] for row in rows] == (
            ["dmpTse", "fDhFDe", "sOhFDe", "RapTse", "fmpTse", "hDhFDe", "uOhFDe", "wMyXse", "TapTse", "LosKDe"]
        )
        for row in page["results"]:
            data = client.contents(row["id"]).content
            assert row["path"] == f"user/user_OvdRk/output/job_QTVia/run1/{row['relativePath']}"
            assert (row["name"], row["typeId"]) == (row["relativePath"].split("/")[-1], 5)
            assert (len(data), hashlib.md5(data).hexdigest()) == (row["decryptedSize"], row["md5"])  # noqa: S324
        assert len(client.rows(f"/api/jobs/{EXAMPLE_JOB}/runs/1/files/")) == 63
        assert client.get(f"/api/v2/jobs/{LIVE_JOB}/runs/1/tail/process_output.log").ok
        client.session.close()
