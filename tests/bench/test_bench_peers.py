"""Peers of the benchmark: all of them compute the same, and those that cannot are named."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from mlpbank import Activation, Architecture, LayerSpec
from mlpbank.bench import measure, peers, report
from mlpbank.bench.cases import Case, Problem, make_problem
from mlpbank.bench.contender import Contender, Settings, UnavailableError

TINY = Case(20, (3, 5, 2), 4)
SETTINGS = Settings(threads=1)
HIDDEN = [activation for activation in Activation if activation.value != "softmax"]
MODULES = {
    "torch": "torch",
    "torch-loop": "torch",
    "jax": "jax",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
}


class TestPeers:
    def test_a_name_stands_for_bounds_and_slopes(self) -> None:
        clip = Case(7, (3, 5, 2), 1, "clip").architecture
        assert clip == Architecture([LayerSpec(3, 5, "clip", low=-1, high=1), LayerSpec(5, 2)])
        case = Case(7, (3, 5, 4, 2), 1, "prelu")
        first, second, last = make_problem(case).slopes
        assert first is not None
        assert second is not None
        assert last is None
        assert len({*first, *second}) == 14
        assert case.nbytes == 4 * 7 * case.architecture.num_parameters
        assert case.nbytes_as("int8") == case.nbytes - 3 * 7 * (15 + 20 + 8) + 4 * 7 * 11

    @pytest.mark.parametrize("activation", HIDDEN)
    def test_outputs_stay_near_1_through_many_layers(self, activation: Activation) -> None:
        problem = make_problem(Case(20, (32, 64, 64, 64, 1), 32, activation.value))
        assert 0.1 < problem.expected.std() < 10
        assert measure.find_error(peers.build_mlpbank(problem, SETTINGS), problem) is None

    @pytest.mark.parametrize("activation", ["clip", "prelu", "softsign"])
    def test_peers_name_what_they_are_not_set_up_for(self, activation: str) -> None:
        problem = make_problem(Case(2, (3, 5, 2), 1, activation))
        with pytest.raises(UnavailableError, match=f"^numpy is not set up for {activation}$"):
            peers.build_numpy(problem, SETTINGS)

    @pytest.mark.parametrize("activation", HIDDEN)
    def test_numpy_and_mlpbank_agree_with_the_reference(
        self, activation: Activation, isa: str, layout: str
    ) -> None:
        problem = make_problem(Case(20, (3, 5, 2), 1, activation.value))
        settings = Settings(1, isa, layout)
        assert measure.find_error(peers.build_mlpbank(problem, settings), problem) is None
        with contextlib.suppress(UnavailableError):
            assert measure.find_error(peers.build_numpy(problem, settings), problem) is None

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("activation", HIDDEN)
    @pytest.mark.parametrize("name", MODULES)
    def test_other_peers_agree_with_the_reference(self, name: str, activation: Activation) -> None:
        pytest.importorskip(MODULES[name])
        problem = make_problem(Case(20, (3, 5, 2), 4, activation.value))
        try:
            contender = peers.PEERS[name](problem, SETTINGS)
        except UnavailableError as error:
            pytest.skip(str(error))
        assert measure.find_error(contender, problem) is None

    @pytest.mark.filterwarnings("ignore")
    def test_torch_that_cannot_compile_is_skipped_by_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch = pytest.importorskip("torch")

        def refuse(*_: object, **__: object) -> Any:
            def compiled(*_: object) -> None:
                raise RuntimeError("no C++ compiler\nand much more")

            return compiled

        monkeypatch.setattr(torch, "compile", refuse)
        builders = {"mlpbank": peers.build_mlpbank, "torch-compile": peers.PEERS["torch-compile"]}
        result = measure.run_case(TINY, builders, SETTINGS, seconds=0.01)
        assert result.left_out == {
            "torch-compile": "torch.compile failed: RuntimeError: no C++ compiler"
        }

    @pytest.mark.filterwarnings("ignore")
    def test_loop_over_many_models_is_skipped(self) -> None:
        pytest.importorskip("torch")
        problem = make_problem(Case(2001, (2, 1), 1))
        with pytest.raises(UnavailableError, match="2001"):
            peers.PEERS["torch-loop"](problem, SETTINGS)

    def test_missing_peer_is_named_and_skipped(self) -> None:
        def build_missing(problem: Problem, settings: Settings) -> Contender:
            raise ModuleNotFoundError("No module named 'x'", name="x")

        result = measure.run_case(
            TINY, {"mlpbank": peers.build_mlpbank, "x": build_missing}, SETTINGS, seconds=0.01
        )
        assert result.left_out == {"x": "not installed (x)"}
        assert "skipped: not installed (x)" in report.case_table(result)
