"""What a row finds: figures with all their samples, and checks of figures against goals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Sense = Literal["<=", ">=", "=="]


@dataclass(frozen=True)
class Figure:
    """Something measured, one or more times; `unit` is `s`, `bytes` or empty."""

    name: str
    samples: tuple[float, ...]
    unit: str

    @property
    def value(self) -> float:
        """Return the median."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Check:
    """A figure or a ratio of figures, with its goal."""

    name: str
    value: float
    sense: Sense
    goal: float
    unit: str

    @property
    def is_met(self) -> bool:
        """Tell whether the goal is reached."""
        if self.sense == "==":
            return self.value == self.goal
        return self.value <= self.goal if self.sense == "<=" else self.value >= self.goal


@dataclass
class Outcome:
    """One row with one binding."""

    row: str
    title: str
    binding: str
    figures: list[Figure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failure: str | None = None

    def figure(self, name: str, samples: Sequence[float], unit: str = "s") -> float:
        """Add a figure; return its median."""
        self.figures.append(Figure(name, tuple(samples), unit))
        return self.figures[-1].value

    def at_most(self, name: str, value: float, goal: float, unit: str = "") -> None:
        """Add a check that wants little."""
        self.checks.append(Check(name, value, "<=", goal, unit))

    def at_least(self, name: str, value: float, goal: float, unit: str = "") -> None:
        """Add a check that wants much."""
        self.checks.append(Check(name, value, ">=", goal, unit))

    def exactly(self, name: str, value: float, goal: float, unit: str = "") -> None:
        """Add a check that wants one value."""
        self.checks.append(Check(name, value, "==", goal, unit))

    @property
    def is_met(self) -> bool:
        """Tell whether the row ran and all its goals are reached."""
        return self.failure is None and all(check.is_met for check in self.checks)
