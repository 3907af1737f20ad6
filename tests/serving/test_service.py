"""examples/service, started for real and driven over HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import random_weights
from http_client import Connection, Service, running
from mlpbank import Bank
from mlpbank.cli.demo import load_bank, load_flights
from service_bank import (
    ARCHITECTURE,
    BANKS,
    GUNICORN,
    KEYS,
    MODELS,
    UVICORN,
    question,
    right,
    run,
    weights_json,
)

for module in ("fastapi", "uvicorn", "uvicorn_worker", "gunicorn", "prometheus_client"):
    pytest.importorskip(module)
httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service over the flights, with no fallback, so that unknown keys are errors."""
    folder = tmp_path_factory.mktemp("flights")
    bank = load_bank()
    bank.fallback = None
    bank.save(folder / "strict.mlpbank")
    with running(
        *UVICORN, folder=folder, BANK_FILE=str(folder / "strict.mlpbank"), MAX_BODY="100000"
    ) as service:
        yield service


def test_without_settings_the_flights_are_served_and_unknown_keys_get_the_fallback(
    tmp_path: Path,
) -> None:
    bank, x = load_bank(), load_flights()["features"][:2]
    with running(*UVICORN, folder=tmp_path, BANK_FILE="") as service:
        answer = httpx.post(
            service.url + "/predict", json={"keys": ["nobody", "UA 15 HNL"], "rows": x.tolist()}
        )
    assert np.array_equal(
        np.array(answer.json()["predictions"], np.float32), bank.predict(["*", "UA 15 HNL"], x)
    )


def test_flights_are_predicted(flights: Service) -> None:
    bank, sample = load_bank(), load_flights()
    every = list(bank)
    keys, x = [str(every[i]) for i in sample["model"][:100]], sample["features"][:100]
    expected = bank.predict(keys, x)
    many = httpx.post(flights.url + "/predict", json={"keys": keys, "rows": x.tolist()})
    assert many.status_code == 200
    assert np.array_equal(np.array(many.json()["predictions"], np.float32), expected)
    for i in range(5):
        one = httpx.post(
            flights.url + "/predict", json={"keys": keys[i : i + 1], "rows": x[i : i + 1].tolist()}
        )
        assert np.array_equal(np.array(one.json()["predictions"], np.float32), expected[i : i + 1])
    health = flights.get("/healthz")
    assert (health["status"], health["models"]) == ("ok", len(bank))


def test_models_are_put_got_and_deleted(flights: Service) -> None:
    with httpx.Client(base_url=flights.url) as client:
        model = client.get("/models/UA 15 HNL", params={"weights": True}).json()
        assert (model["revision"], model["version"]) == (1, "2013-10-31")
        created = client.put("/models/my%20own", json={"weights": model["weights"], "version": "7"})
        assert created.status_code == 201
        assert (created.json()["key"], created.json()["version"]) == ("my own", "7")
        assert client.put("/models/my%20own", json={"weights": model["weights"]}).status_code == 200
        again = client.get("/models/my own", params={"weights": "1"}).json()
        assert (again["weights"], again["revision"], again["version"]) == (
            model["weights"],
            2,
            None,
        )
        rows = [[1.0] * 8] * 2
        answer = client.post(
            "/predict", json={"keys": ["my own", "UA 15 HNL"], "rows": rows}
        ).json()["predictions"]
        assert answer[0] == answer[1]
        assert client.delete("/models/my own").status_code == 204
        assert client.get("/models/my own").status_code == 404
        assert client.delete("/models/my own").status_code == 404


NUMBERS = [0.0] * 8
BAD: dict[str, tuple[str, str, Any, int, str]] = {
    "unknown": (
        "POST",
        "/predict",
        {"keys": ["N0"], "rows": [NUMBERS]},
        404,
        "no such model: 'N0'",
    ),
    "some unknown": (
        "POST",
        "/predict",
        {"keys": ["*", "N0"], "rows": [NUMBERS] * 2},
        404,
        r"\(1 of 2 keys\)",
    ),
    "short row": (
        "POST",
        "/predict",
        {"keys": ["*"], "rows": [[1]]},
        422,
        r"rows\[0\]: expected 8 numbers, got 1",
    ),
    "no row": ("POST", "/predict", {"keys": [], "rows": []}, 422, "at least 1 item"),
    "no key": (
        "POST",
        "/predict",
        {"keys": ["*"], "rows": [NUMBERS] * 2},
        422,
        "got 1 keys and 2 rows",
    ),
    "text": ("POST", "/predict", {"keys": ["*"], "rows": [["a"] * 8]}, 422, "valid number"),
    "number as key": (
        "POST",
        "/predict",
        {"keys": [1], "rows": [NUMBERS]},
        422,
        "expected str like the bank",
    ),
    "misspelt": ("POST", "/predict", {"keys": ["*"], "row": [NUMBERS]}, 422, "Field required"),
    "NaN": ("POST", "/predict", b'{"keys": ["*"], "rows": [[NaN]]}', 422, "finite number"),
    "too large": (
        "POST",
        "/predict",
        {"keys": ["*"], "rows": [[1e39] * 8]},
        422,
        "less than or equal",
    ),
    "surrogate": (
        "POST",
        "/predict",
        b'{"keys": ["\\ud800"], "rows": [[0,0,0,0,0,0,0,0]]}',
        422,
        "valid string",
    ),
    "no JSON": ("POST", "/predict", b"{", 422, "JSON decode error"),
    "no UTF-8": ("POST", "/predict", b'"\xff"', 400, "error parsing the body"),
    "nested": ("POST", "/predict", b"[" * 50_000, 400, "error parsing the body"),
    "too long": ("POST", "/predict", b"[" * 100_001, 413, "at most 100000 bytes"),
    "weights missing": ("PUT", "/models/new", {"weights": {"layer_0": [NUMBERS]}}, 422, "layer_"),
    "weights misshapen": (
        "PUT",
        "/models/*",
        {"weights": {"layer_0": [[1.0]], "layer_1": [[1.0]]}},
        422,
        "expected",
    ),
    "weights ragged": ("PUT", "/models/*", {"weights": {"layer_0": [[1.0], [1.0, 2.0]]}}, 422, "."),
    "weights unknown": ("PUT", "/models/*", {"weights": {"weight": [[1.0]]}}, 422, "pattern"),
    "nobody": ("GET", "/models/nobody", None, 404, "no such model: 'nobody'"),
    "nowhere": ("GET", "/nowhere", None, 404, "Not Found"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_reason(flights: Service, name: str) -> None:
    method, path, body, status, message = BAD[name]
    content = body if isinstance(body, bytes) else json.dumps(body)
    headers = {"content-type": "application/json"}
    answer = httpx.request(method, flights.url + path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"detail"}
    assert len(answer.text) < 2000
    with pytest.raises(ValueError, match=message):
        raise ValueError(answer.text)


def test_bodies_without_length_are_limited_too(flights: Service) -> None:
    chunks = (b" " * 10_000 for _ in range(11))
    assert httpx.post(flights.url + "/predict", content=chunks).status_code == 413


def test_overflow_is_answered_null(flights: Service) -> None:
    answer = httpx.post(flights.url + "/predict", json={"keys": ["*"], "rows": [[3e38, -3e38] * 4]})
    assert answer.status_code == 200
    json.loads(answer.text, parse_constant=pytest.fail)  # no NaN, no Infinity


def test_openapi_has_examples_that_work(flights: Service) -> None:
    openapi = flights.get("/openapi.json")
    assert set(openapi["paths"]) == {"/predict", "/models/{key}", "/healthz", "/metrics"}
    example = openapi["components"]["schemas"]["PredictRequest"]["examples"][0]
    example["keys"] = ["*"]
    assert httpx.post(flights.url + "/predict", json=example).status_code == 200
    example = openapi["components"]["schemas"]["ModelRequest"]["examples"][0]
    assert httpx.put(flights.url + "/models/example", json=example).status_code == 201


def test_metrics(flights: Service) -> None:
    httpx.get(flights.url + "/models/whoever")
    metrics = flights.get("/metrics")
    assert 'http_requests_total{method="GET",route="/models/{key}",status="404"}' in metrics
    assert "predicted_rows_total" in metrics
    assert "whoever" not in metrics


@pytest.mark.slow
def test_schemathesis_provokes_no_server_error(flights: Service, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    script = (
        "import sys, schemathesis.cli; sys.argv[0] = 'schemathesis'; "
        "schemathesis.cli.schemathesis()"
    )
    command = [sys.executable, "-c", script, "run", flights.url + "/openapi.json", "--seed", "1"]
    command += [
        "--checks",
        "not_a_server_error",
        "--max-examples",
        "25",
        "--generation-database",
        "none",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


@pytest.mark.slow
def test_answers_under_load_while_models_are_swapped(bank_file: Path, tmp_path: Path) -> None:
    """Each answer is of one revision. A client that has swapped a model sees the new one."""

    async def client(port: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        connection = Connection(port)
        for _ in range(60):
            rows = [
                (int(rng.integers(10, MODELS)), int(rng.integers(200)))
                for _ in range(rng.choice([1, 1, 5]))
            ]
            status, answer = await connection.request("POST", "/predict", question(*rows))
            assert status == 200
            for one, values in zip(rows, answer["predictions"], strict=True):
                assert any(right({"predictions": [values]}, bank, one) for bank in BANKS)
        await connection.close()

    async def swapper(port: int, seed: int) -> None:
        """Swaps models that others ask for too, and one of its own."""
        rng = np.random.default_rng(seed)
        connection = Connection(port)
        for i in range(40):
            await connection.request(
                "PUT", f"/models/{KEYS[10 + i]}", weights_json(int(rng.integers(2)), 10 + i)
            )
            status, about = await connection.request(
                "PUT", f"/models/{KEYS[seed]}", weights_json(i % 2, seed)
            )
            assert (status, about["revision"]) == (200, i + 2)
            status, answer = await connection.request("POST", "/predict", question((seed, i)))
            assert right(answer, BANKS[i % 2], (seed, i))
        await connection.close()

    async def main(port: int) -> None:
        await asyncio.gather(
            *(client(port, seed) for seed in range(16)), *(swapper(port, i) for i in range(4))
        )

    with running(*UVICORN, folder=tmp_path, BANK_FILE=str(bank_file)) as service:
        run(main(service.port))
        metrics = service.get("/metrics")
    assert 'route="/predict",status="200"} 1120.0' in metrics


@pytest.mark.parametrize("command", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
def test_graceful_shutdown_answers_what_was_accepted(
    command: tuple[str, ...], bank_file: Path, tmp_path: Path
) -> None:
    rows = [[(i % MODELS, i) for i in range(n)] for n in (1, 1, 100, 1, 200, 1)]

    async def main(service: Service) -> list[tuple[int, Any]]:
        connections = [Connection(service.port) for _ in rows]
        bodies = [json.dumps(question(*asked)).encode() for asked in rows]
        for connection, body in zip(connections, bodies, strict=True):
            await connection.begin("POST", "/predict", body, send=20)
        service.process.send_signal(signal.SIGTERM)
        await Connection(service.port).refused()
        answers = [await c.end(body[20:]) for c, body in zip(connections, bodies, strict=True)]
        for connection in connections:
            await connection.close()
        return answers

    with running(*command, folder=tmp_path, BANK_FILE=str(bank_file)) as service:
        answers = run(main(service))
        assert service.process.wait(30) in (0, -signal.SIGTERM)
    for (status, answer), asked in zip(answers, rows, strict=True):
        assert status == 200
        assert right(answer, BANKS[0], *asked)


def test_int_keys(tmp_path: Path) -> None:
    keys = [1, -20, 2**63 - 1]
    bank = Bank.from_stacked(
        keys, ARCHITECTURE, random_weights(ARCHITECTURE, 3, np.random.default_rng(0))
    )
    bank.save(tmp_path / "int.mlpbank")
    rows = np.ones((3, 6)).tolist()
    expected = bank.predict(keys, rows)
    running_service = running(*UVICORN, folder=tmp_path, BANK_FILE=str(tmp_path / "int.mlpbank"))
    with running_service as service, httpx.Client(base_url=service.url) as client:

        def refused(status: int, part: str, answer: Any) -> None:
            assert answer.status_code == status, answer.text
            assert part in answer.json()["detail"]

        answer = client.post("/predict", json={"keys": keys, "rows": rows})
        assert np.array_equal(np.array(answer.json()["predictions"], np.float32), expected)
        for i, key in enumerate(keys):
            answer = client.post("/predict", json={"keys": [key], "rows": rows[:1]})
            assert np.array_equal(
                np.array(answer.json()["predictions"], np.float32), expected[i : i + 1]
            )
            about = client.get(f"/models/{key}", params={"weights": True}).json()
            assert (about["key"], about["revision"]) == (key, 1)
        body = {"weights": about["weights"]}
        assert client.put("/models/77", json=body).status_code == 201
        assert client.put("/models/77", json=body).json()["revision"] == 2
        assert client.delete("/models/77").status_code == 204
        refused(404, "no such model: 77", client.get("/models/77"))
        refused(
            404,
            "no such model: 5 (1 of 1 keys)",
            client.post("/predict", json={"keys": [5], "rows": rows[:1]}),
        )
        for path in (
            "one",
            "1.0",
            "01",
            "1_0",
            "+1",
            "-0",
            "%201",
            "%D9%A1",
            str(2**63),
            "9" * 200,
        ):
            for method in ("GET", "DELETE", "PUT"):
                content = json.dumps(body) if method == "PUT" else None
                headers = {"Content-Type": "application/json"}
                answer = client.request(method, f"/models/{path}", content=content, headers=headers)
                refused(422, "key: expected an int of 64 bits like the bank's keys, got ", answer)
        answer = client.post("/predict", json={"keys": [1, "1"], "rows": rows[:2]})
        refused(422, "keys[1]: expected int like the bank's keys, got '1'", answer)
        for wrong in (True, 1.0, 2**63, None, [1]):
            assert (
                client.post("/predict", json={"keys": [wrong], "rows": rows[:1]}).status_code == 422
            )


def test_docs_describe_everything_and_load_nothing(flights: Service) -> None:
    page = httpx.get(flights.url + "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert (
        page.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    )
    for nothing in ("http:", "https:", "//", "<script", "<link", "src=", "@import", "url("):
        assert nothing not in page.text
    for path in flights.get("/openapi.json")["paths"]:
        assert path in page.text
    assert "UA 15 HNL" in page.text  # the example
    assert httpx.get(flights.url + "/redoc").status_code == 404


def test_documentation_says_how_to_put_a_file_in_place(root: Path) -> None:
    for name in ("docs/serving.md", "examples/service/README.md"):
        assert "`mv`, never `cp`" in (root / name).read_text()
