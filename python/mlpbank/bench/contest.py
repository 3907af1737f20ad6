"""What the sections of a suite are made of: contenders that are verified and then take turns, and steps that do so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlpbank.bench import machine
from mlpbank.bench.contender import Contender
from mlpbank.bench.measure import LimitProbes, Progress, Timing, gather, summarise, take_turns
from mlpbank.bench.table import Factor, Microseconds, Row, Table


@dataclass(frozen=True)
class Step:
    """One table of a section.

    Parameters
    ----------
    label : str
        For the progress bar.
    run : callable
        Measures and returns the table, and reports its progress.
    """

    label: str
    run: Callable[[Progress], Table]


@dataclass(frozen=True)
class Contest:
    """How contenders did, in the order in which they were named."""

    timings: dict[str, Timing]
    wrong: dict[str, str]
    left_out: dict[str, str]
    other_load: float | None

    def us(self, name: str) -> float:
        """Return a contender's median in microseconds; NaN where it was not timed."""
        return self.timings[name].median_us if name in self.timings else float("nan")

    def rows(self) -> list[Row]:
        """Return a row for each contender, the first being the one that the others are compared with."""
        first = next(iter(self.timings), "")
        return [
            {
                "": name,
                "median": Microseconds(timing.median_us),
                "p10": Microseconds(timing.p10_us),
                "p90": Microseconds(timing.p90_us),
                f"{first} is faster by": Factor(timing.speedup) if name != first else "",
                "how": timing.detail,
            }
            for name, timing in self.timings.items()
        ]

    def table(self, title: str, rows: list[Row]) -> Table:
        """Return a table with `rows` and all that has to be said about the contest."""
        return Table(title, rows, self.wrong, self.left_out, self.other_load)


def hold(
    builders: Mapping[str, Callable[[], Contender]],
    verify: Callable[[Contender], str | None],
    *,
    seconds: float,
    progress: Progress,
    probes: LimitProbes | None = None,
) -> Contest:
    """Build and verify contenders, let those whose numbers are right take turns, and return how they did.

    Parameters
    ----------
    builders : mapping of str to callable
        Who takes part, under its contender's name. Nobody is timed if the first is wrong.
    verify : callable
        Returns what is wrong with a contender, or None.
    seconds : float
        About so long they take turns.
    progress : callable
        Is told the fraction done, and what is being done.
    probes : LimitProbes, optional
        Measured now and then between the turns.
    """
    contenders, left_out, wrong = gather(builders, verify, progress=lambda part, doing: progress(0.4 * part, doing))
    others = machine.OtherLoad()
    timings: list[Timing] = []
    if contenders and contenders[0].name == next(iter(builders)):
        samples, calls = take_turns(
            contenders, probes, seconds=seconds, progress=lambda part: progress(0.4 + 0.6 * part, "taking turns")
        )
        timings = summarise(contenders, samples, calls)
    return Contest({timing.name: timing for timing in timings}, wrong, left_out, others.share())


def part_of(progress: Progress, index: int, count: int, name: str) -> Progress:
    """Return where part `index` of `count` reports its progress to."""
    return lambda fraction, doing: progress((index + fraction) / count, f"{name}: {doing}")
