"""Answers of the API, and what a hostile or broken server could make of them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

JSON = Any


def _nested(depth: int) -> JSON:
    value: JSON = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


# What may stand where anything else belongs. Deeper nesting than this json itself refuses.
VALUES: list[Callable[[], JSON]] = [
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1,
    lambda: 2**63 - 1,
    lambda: 2**63,
    lambda: 10**4000,
    lambda: 0.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: "",
    lambda: "\0",
    lambda: "a/b",
    lambda: "..",
    lambda: "../../etc/passwd",
    lambda: "/",
    lambda: ".rescale",
    lambda: "stop",
    lambda: "latest",
    lambda: "\ud800",
    lambda: "\udc80\u202e\n",
    lambda: "x" * 300,
    lambda: "x/" * 2000,
    lambda: "\U0001f600" * 100,
    lambda: "9" * 400,
    lambda: "0001-01-01T00:00:00Z",
    lambda: "9999-12-31T23:59:59.999999999-23:59",
    lambda: "2026-02-30T00:00:00Z",
    lambda: "Completed",
    lambda: [],
    lambda: {},
    lambda: [[]],
    lambda: [{}],
    lambda: {"id": "x"},
    lambda: _nested(90),
    lambda: _nested(400),
    lambda: list(range(3000)),
]


def _places(value: JSON) -> Iterator[tuple[Any, Any]]:
    """Yield every container with each of its keys or indices."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def mutated(answer: JSON, chance: random.Random) -> JSON:
    """Return a copy of an answer with some of it replaced, left out, doubled or moved."""
    answer = copy.deepcopy(answer)
    if chance.random() < 0.05:
        return chance.choice(VALUES)()
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        places = list(_places(answer))
        if not places:
            break
        container, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del container[key]
            case 1 if isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            case 2:
                other, other_key = chance.choice(places)
                container[key] = copy.deepcopy(other[other_key])
            case _:
                container[key] = chance.choice(VALUES)()
    return answer
