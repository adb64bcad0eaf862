"""Whatever the API answers to a call that is no listing: a value of its type, or an error of ours."""

from __future__ import annotations

import contextlib
import json
import random
from contextlib import closing

from hypothesis import given, settings
from hypothesis import strategies as st

from rescalefs.client import Client
from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import RescaleError
from rescalefs.joining import join
from tests.mutation import mutated
from tests.raw_server import RawServer, reply
from tests.stack import transport_to

LINES = {"fileType": "/home/job_LiveR/work/log: ASCII text", "lines": [f"Time = {number}" for number in range(40)]}
ME = {"email": "u@example.com", "name": "U", "company": {"code": "c", "members": [{"id": "x"}]}}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32))
def test_no_answer_that_is_asked_for_alone_crashes_its_call(seed: int) -> None:
    """The last lines of a log, who the owner of the key is, what an act tells: a value of its type, or our error."""
    chance, clock = random.Random(seed), ManualClock()
    at = clock.now() + 100
    bodies = [json.dumps(mutated(answer, chance)).encode() for answer in (LINES, ME, {"exitcode": 0, "reason": "done"})]
    with (
        RawServer(*(reply(200, body) for body in bodies)) as server,
        closing(transport_to(server.origin, clock)) as transport,
    ):
        client = Client(transport)
        with contextlib.suppress(RescaleError):
            told = client.last_lines("J", "1", "log", 40, max_bytes=1 << 20, deadline_at=at)
            assert all(isinstance(line, str) for line in told.lines)
            join(told, 40, b"Time = 1\n" * 40, 360, b"Time = 1\n" * 32)
        with contextlib.suppress(RescaleError):
            assert isinstance(client.whoami(at), str)
        answer = client.act("snapshot", "J", "1", at)
        assert isinstance(answer.exit_code, int)
        assert isinstance(answer.reason, str)
