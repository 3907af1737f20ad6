"""The limits of the machine: the best measurement counts, and a beaten limit is said to be none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from mlpbank import _core
from mlpbank.bench import limits as limits_module
from mlpbank.bench import measure, peers, report
from mlpbank.bench.cases import Case, Problem
from mlpbank.bench.contender import Contender, Settings

TINY = Case(20, (3, 5, 2), 4)
SETTINGS = Settings(threads=1)
CALL_SECONDS = 0.01


class Machine:
    """A machine whose clock only calls move, and whose limits are what a test says.

    A call takes CALL_SECONDS. Each measurement of a limit takes the next of `shares`: what share
    of that limit such a call would reach. The last one is repeated.
    """

    def __init__(self, case: Case, shares: Sequence[float]) -> None:
        self._case = case
        self._shares = iter(shares)
        self._last = 0.0
        self.now = 0.0
        self.measured = 0
        self.calls = 0

    def perf_counter(self) -> float:
        return self.now

    def perf_counter_ns(self) -> int:
        return int(self.now * 1e9)

    def process_time(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        pass

    def fma_peak(self, isa: str, threads: int) -> float:
        self.measured += 1
        self._last = next(self._shares, self._last)
        return self._case.flops / (self._last * CALL_SECONDS) / 1e9

    def read_bandwidth(self, nbytes: int, threads: int, repeats: int) -> float:
        return 1e6  # never binds

    def run(self) -> None:
        self.calls += 1
        self.now += CALL_SECONDS


Make = Callable[[Sequence[float]], tuple[Machine, measure.CaseResult]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Run a case on a machine with the given shares."""

    def run(shares: Sequence[float]) -> tuple[Machine, measure.CaseResult]:
        machine = Machine(TINY, shares)
        monkeypatch.setattr(measure, "time", machine)
        monkeypatch.setattr(limits_module, "time", machine)
        monkeypatch.setattr(limits_module, "_core", machine)

        def build(problem: Problem, settings: Settings) -> Contender:
            return Contender("mlpbank", machine.run, lambda: problem.expected, ours=True)

        return machine, measure.run_case(TINY, {"mlpbank": build}, SETTINGS, seconds=0.1)

    return run


class TestDisturbed:
    def test_the_best_measurement_before_or_after_counts(self, ran: Make) -> None:
        for shares in ([0.5, 1.8, 1.8], [1.8, 1.8, 0.5]):  # before, between and after the turns
            machine, result = ran(shares)
            assert result.limits is not None
            assert result.limits.share == pytest.approx(0.5)
            assert result.limits.measured == machine.measured == 3
            assert "mlpbank reaches 50% of it" in report.case_table(result)

    def test_a_beaten_limit_and_the_case_are_measured_again(self, ran: Make) -> None:
        undisturbed, first = ran([0.9])
        machine, result = ran([1.8, 1.8, 1.8, 1.8, 0.9])
        assert result.limits is not None
        assert result.limits.share == pytest.approx(0.9)
        assert not result.limits.disturbed
        assert machine.measured > undisturbed.measured
        assert result.timings[0].samples > first.timings[0].samples
        assert "mlpbank reaches 90% of it" in report.case_table(result)

    def test_a_limit_that_stays_beaten_is_said_to_be_none(self, ran: Make) -> None:
        machine, result = ran([1.8])
        assert result.limits is not None
        assert result.limits.disturbed
        repeats = measure._REPEATS
        assert result.limits.measured == machine.measured == 3 + repeats * (5 + 1)
        text = report.case_table(result)
        assert "faster than the limit of multiply-adds (180.0% of it), also after 15 " in text
        assert "reaches" not in text
        summary = report.summary_table([result])
        assert "fma disturbed" in summary
        assert "The limits of 1 of 1 cases were disturbed" in summary
        written = report.as_json({}, [], SETTINGS, [result])["cases"][0]
        assert written["limit_disturbed"] is True

    def test_a_quiet_case_is_measured_once(self, ran: Make) -> None:
        machine, _ = ran([0.99])
        assert machine.measured == 3


class TestLimits:
    def test_share_is_of_the_limit_that_takes_longer(self) -> None:
        result = measure.run_case(TINY, {"mlpbank": peers.build_mlpbank}, SETTINGS, seconds=0.01)
        limits = result.limits
        assert limits is not None
        assert limits.read_us == pytest.approx(TINY.nbytes / limits.read_gb_per_s / 1e3)
        assert limits.fma_us == pytest.approx(TINY.flops / limits.fma_gflop_per_s[result.isa] / 1e3)
        assert limits.binding == ("read" if limits.read_us >= limits.fma_us else "fma")
        assert limits.share == pytest.approx(
            max(limits.read_us, limits.fma_us) / result.timings[0].median_us
        )
        assert set(limits.fma_gflop_per_s) == {result.isa}
        assert result.best_peer is None

    def test_limits_of_the_machine(self, isa: str) -> None:
        assert _core.fma_peak(isa, 1) > 0.1
        assert _core.read_bandwidth(1000, 1, 1) > 0.1

    @pytest.mark.parametrize("arguments", [(63, 1, 1), (-1, 1, 1), (4096, 1, 0), (4096, -1, 1)])
    def test_limits_refuse_nonsense(self, arguments: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match="expected"):
            _core.read_bandwidth(*arguments)
