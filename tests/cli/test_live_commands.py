"""create, log, compact and inspect of live folders, and the other commands on them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import make_bank, rows, run
from mlpbank import Bank
from mlpbank.cli import main

KEYS = {"str": ["x", "007", "nan"], "int": [5, -1, 70], "tuple": [("a", 1), ("a,b", 2), ("c", 3)]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_bank(KEYS["str"]).save(tmp_path / "fleet.live", live=True)
    return tmp_path / "fleet.live"


def says(capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    """Run a command that succeeds, and return its output."""
    code = main(list(map(str, args)))
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out


def fails(capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    """Run a command that fails, and return its error, one line."""
    code = main(list(map(str, args)))
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("mlpbank: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def table_of(text: str) -> dict[str, str]:
    """Return what `inspect` says, by name."""
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return {name: value.strip() for name, value in pairs}


def same(a: Bank, b: Bank) -> bool:
    keys = list(a)
    x = rows(len(keys))
    known = ("architecture", "dtype", "layout", "fallback", "metadata", "key_type")
    return (
        sorted(keys) == sorted(b)  # type: ignore[type-var]
        and np.array_equal(a.predict(keys, x), b.predict(keys, x))
        and [a.info(key) for key in keys] == [b.info(key) for key in keys]
        and all(getattr(a, name) == getattr(b, name) for name in known)
    )


def test_create_from_a_file(tmp_path: Path) -> None:
    bank = make_bank(KEYS["str"])
    bank.save(tmp_path / "fleet.mlpbank")
    done = run("create", tmp_path / "fleet.mlpbank", tmp_path / "new.live", "--progress")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{tmp_path / 'new.live'}: 3 models, ")
    assert "saving" in done.stderr or "%" in done.stderr  # the bar
    assert same(Bank.open(tmp_path / "new.live"), Bank.open(tmp_path / "fleet.mlpbank"))


def test_create_from_a_folder_that_is_used(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Bank.open(folder, writable=True)
    writer["more"] = writer["x"]
    del writer["nan"]
    says(capsys, "create", folder, tmp_path / "copy.live")
    copy = Bank.open(tmp_path / "copy.live", writable=True)
    assert same(writer, copy)
    copy["only here"] = copy["x"]
    assert "only here" not in writer


def break_head(folder: Path, how: str) -> None:
    head = folder / "head"
    if how == "missing":
        head.unlink()
    elif how == "short":
        head.write_bytes(head.read_bytes()[:100])
    else:
        head.write_bytes(b"\xff" * 4096)


@pytest.mark.parametrize("how", ["missing", "short", "garbage"])
def test_create_is_the_way_out_where_the_head_is_damaged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    writer = Bank.open(folder, writable=True)
    writer["more"] = writer["x"]
    expected = writer.predict(list(writer), rows(4))
    break_head(folder, how)
    for command in ("inspect", "verify", "compact"):
        assert "copy the folder to a new one: mlpbank create" in fails(capsys, command, folder)
    says(capsys, "create", folder, tmp_path / "copy.live")
    copy = Bank.open(tmp_path / "copy.live", writable=True)
    np.testing.assert_array_equal(copy.predict(list(writer), rows(4)), expected)


def test_create_leaves_out_what_never_reached_the_disk(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Bank.open(folder, writable=True, sync="off")
    writer["kept"] = writer["x"]
    with writer.transaction() as changes:  # type: ignore[attr-defined]
        for key in ("lost", "with it"):
            changes[key] = writer["x"]
    segment = folder / "blocks-000001.bin"
    data = bytearray(segment.read_bytes())
    block = writer._block.bytes  # type: ignore[attr-defined]
    data[block : 2 * block] = bytes(block)
    segment.write_bytes(data)
    (folder / "head").unlink()
    with pytest.warns(RuntimeWarning, match="the last 2 changes .* are left out"):
        says(capsys, "create", folder, tmp_path / "copy.live")
    copy = Bank.open(tmp_path / "copy.live")
    assert sorted(copy) == ["007", "kept", "nan", "x"]  # type: ignore[type-var]


def test_create_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no bank at all")
    (tmp_path / "empty").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    new = tmp_path / "new.live"
    assert "there is a live bank" in fails(capsys, "create", folder, folder)
    assert "expected a new folder" in fails(capsys, "create", folder, tmp_path / "text")
    assert "No such file" in fails(capsys, "create", tmp_path / "none", new)
    assert "No such file" in fails(capsys, "create", folder, tmp_path / "none" / "new.live")
    assert "expected a bank file" in fails(capsys, "create", tmp_path / "text", new)
    assert "without index.sqlite" in fails(capsys, "create", tmp_path / "empty", new)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Bank.open(folder, writable=True)
    writer.add("x", writer["x"], version="v\n8")
    with writer.transaction() as changes:  # type: ignore[attr-defined]
        changes["new"] = writer["x"]
        del changes["007"]
    writer.metadata = {}
    lines = says(capsys, "log", folder).splitlines()
    assert lines[0].split() == ["sequence", "last", "kind", "time", "revision", "version", "key"]
    cells = [line.split() for line in lines[1:]]
    assert [line[:3] for line in cells] == [
        ["1", "1", "load"],
        ["2", "3", "load"],
        ["3", "3", "remove"],
        ["4", "4", "describe"],
    ]
    assert cells[0][5:] == ["2", "'v\\n8'", "'x'"]  # text of the user cannot begin a line
    assert cells[2][3:] == ["-", "-", "-", "'007'"]
    as_json = [json.loads(line) for line in says(capsys, "log", folder, "--json").splitlines()]
    info = writer.info("x")
    assert as_json[0] == {
        "sequence": 1,
        "last": 1,
        "kind": "load",
        "time": info.loaded_at.isoformat(),
        "key": "x",
        "version": "v\n8",
        "revision": 2,
    }
    assert as_json[2]["key"] == "007"
    assert as_json[3]["key"] is None
    since = says(capsys, "log", folder, "--json", "--since", "2").splitlines()
    assert [json.loads(line) for line in since] == as_json[2:]
    assert says(capsys, "log", folder, "--since", "4").count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "text", "key"),
    [
        ("str", "007", "007"),
        ("int", "-1", -1),
        ("tuple", '"a,b",2', ["a,b", 2]),
        ("tuple", "a,1", ["a", 1]),
    ],
)
def test_log_of_one_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, text: str, key: Any
) -> None:
    make_bank(KEYS[kind]).save(tmp_path / "bank.live", live=True)
    writer = Bank.open(tmp_path / "bank.live", writable=True)
    for _ in range(2):
        writer.update(dict(writer.items()))
    writer.fallback = KEYS[kind][1]
    args = ("log", tmp_path / "bank.live", "--json", "--key", text)
    found = [json.loads(line) for line in says(capsys, *args).splitlines()]
    at = KEYS[kind].index(tuple(key) if isinstance(key, list) else key)
    assert [(row["sequence"], row["key"]) for row in found] == [(1 + at, key), (4 + at, key)]


def test_log_of_a_key_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("int", "tuple"):
        make_bank(KEYS[kind]).save(tmp_path / kind, live=True)
    assert "expected an integer" in fails(capsys, "log", tmp_path / "int", "--key", "five")
    assert "expected a key" in fails(capsys, "log", tmp_path / "int", "--key", "")
    assert "expected 2 parts" in fails(capsys, "log", tmp_path / "tuple", "--key", "a")
    assert "expected an integer" in fails(capsys, "log", tmp_path / "tuple", "--key", "a,b")


def test_log_of_many_changes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Bank.open(folder, writable=True, sync="off")
    weights = writer["x"]
    writer.update({f"{i}": weights for i in range(1500)})
    writer.update({f"{i}": weights for i in range(1700)})
    found = [json.loads(line) for line in says(capsys, "log", folder, "--json").splitlines()]
    assert [row["sequence"] for row in found] == list(range(1, 3201))
    assert {row["last"] for row in found} == {1500, 3200}
    assert [row["key"] for row in found[1500:]] == [f"{i}" for i in range(1700)]


def test_log_after_a_compaction(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Bank.open(folder, writable=True)
    for _ in range(3):
        writer["x"] = writer["x"]
    writer.compact()  # type: ignore[attr-defined]
    writer["new"] = writer["x"]
    kinds = [
        json.loads(line)["kind"] for line in says(capsys, "log", folder, "--json").split("\n")[:-1]
    ]
    assert kinds == ["compact", "load"]
    assert main(["log", str(folder), "--json", "--since", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "mlpbank: changes 2 to 3 are in the base, and no longer listed\n"
    assert captured.out.count("\n") == 2


def test_compact(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follower = Bank.open(folder)
    writer = Bank.open(folder, writable=True, sync="off")
    weights = writer["x"]
    for _ in range(16):  # more than two segments
        writer.update({f"{i}": weights for i in range(2000)} | {"x": weights})
    assert not table_of(says(capsys, "inspect", folder))["compact frees"].startswith("about 0 ")
    out = says(capsys, "compact", folder)
    assert out.startswith(f"{folder}: 2,003 models, ")
    assert [path.name for path in folder.glob("base-*")] == ["base-000002.mlpbank"]
    assert len(list(folder.glob("blocks-*"))) == 1
    assert table_of(says(capsys, "inspect", folder))["compact frees"] == "about 0 bytes, 0%"
    assert len(follower) == 2003
    np.testing.assert_array_equal(
        follower.predict("1999", rows(1)[0]), writer.predict("x", rows(1)[0])
    )


def test_compact_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bank(KEYS["str"]).save(tmp_path / "fleet.mlpbank")
    for command in ("compact", "log"):
        assert "got a file; mlpbank create makes one" in fails(
            capsys, command, tmp_path / "fleet.mlpbank"
        )
        assert "without index.sqlite" in fails(capsys, command, tmp_path)
        assert "No such file" in fails(capsys, command, tmp_path / "none")


def test_inspect(folder: Path) -> None:
    writer = Bank.open(folder, writable=True)
    writer["more"] = writer["x"]
    writer.compact()  # type: ignore[attr-defined]
    del writer["more"]
    writer["more"] = writer["x"]
    done = run("inspect", folder)
    assert (done.returncode, done.stderr) == (0, "")
    table = table_of(done.stdout)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert table["folder"] == f"{folder}, {size:,} bytes"
    assert table["sequence"] == "4"
    assert table["base"] == "base-000002.mlpbank, with all changes up to 1"
    assert table["changes since"] == "3"
    assert table["segments"] == "1, 1,048,576 bytes"
    assert table["compact frees"] == "about 0 bytes, 0%"
    assert table["architecture"] == "3-4-2, 26 parameters"
    assert (table["models"], table["dtype"], table["layout"]) == ("4", "float32", "lane")
    assert table["keys"] == "'x', '007', 'nan', 'more'"
    assert table["fallback"] == "'x'"
    assert table["metadata unit"] == '"°C"'


def test_convert_from_and_to_live_folders(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Bank.open(folder, writable=True)
    writer["more"] = writer["x"]
    del writer["007"]
    says(capsys, "convert", folder, "--to", "mlpbank")
    assert same(Bank.open(tmp_path / "fleet.mlpbank"), writer)
    says(capsys, "convert", tmp_path / "fleet.mlpbank", tmp_path / "again.live")
    assert same(Bank.open(tmp_path / "again.live", writable=True), writer)
    says(capsys, "convert", folder, tmp_path / "small", "--to", "live", "--dtype", "float16")
    small = Bank.open(tmp_path / "small")
    assert (small.dtype, sorted(small)) == ("float16", sorted(writer))  # type: ignore[type-var]
    says(capsys, "convert", folder, tmp_path / "plain.safetensors")
    says(capsys, "convert", tmp_path / "plain.safetensors", tmp_path / "plain.live")
    plain = Bank.open(tmp_path / "plain.live")
    np.testing.assert_array_equal(
        plain.predict(list(writer), rows(3)), writer.predict(list(writer), rows(3))
    )


def test_convert_to_onnx_and_from_a_folder_of_models(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    says(capsys, "convert", folder, tmp_path / "fleet.onnx")
    assert onnx.load(tmp_path / "fleet.onnx").graph.input[0].type.tensor_type.shape
    one = Bank(Bank.open(folder).architecture)
    one["model"] = Bank.open(folder)["x"]
    models = tmp_path / "models"
    models.mkdir()
    pytest.importorskip("safetensors.numpy").save_file(one["model"], models / "N7.safetensors")
    args = ("--sizes", "3,4,2", "--activation", "tanh", "--output-activation", "none")
    says(capsys, "convert", models, tmp_path / "models.live", *args)
    made = Bank.open(tmp_path / "models.live", writable=True)
    np.testing.assert_array_equal(
        made.predict("N7", rows(1)[0]), Bank.open(folder).predict("x", rows(1)[0])
    )


def test_convert_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bank(KEYS["str"]).save(tmp_path / "other.live", live=True)
    assert "there is a live bank" in fails(capsys, "convert", folder, tmp_path / "other.live")
    assert "expected another name" in fails(capsys, "convert", folder, folder)
    sizes = ("--sizes", "3,4,2")
    assert "expected a folder of state dicts" in fails(
        capsys, "convert", folder, tmp_path / "y.mlpbank", *sizes
    )
    (folder / "index.sqlite").unlink()
    assert "without index.sqlite" in fails(capsys, "convert", folder, tmp_path / "y.mlpbank")


def test_predict(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Bank.open(folder, writable=True)
    writer["more"] = {name: 2 * array for name, array in writer["x"].items()}
    table = tmp_path / "rows.csv"
    table.write_text("key,b,a,c\nmore,1,2,3\n007,4,5,6\nmore,7,8,9\n")
    args = ("--input", table, "--key", "key", "--output", tmp_path / "y.npy")
    says(capsys, "predict", folder, *args)
    x = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_array_equal(
        np.load(tmp_path / "y.npy"), writer.predict(["more", "007", "more"], x)
    )


def test_commands_see_one_moment(folder: Path) -> None:
    from mlpbank.cli._live_commands import open_bank

    bank = open_bank(folder)
    writer = Bank.open(folder, writable=True)
    del writer["nan"]
    assert sorted(bank) == ["007", "nan", "x"]  # type: ignore[type-var]


def test_no_command_changes_a_folder_that_it_reads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Bank.open(folder, writable=True)
    writer["more"] = writer["x"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for args in (("inspect",), ("verify",), ("log",)):
            says(capsys, *args, folder)
        says(capsys, "create", folder, tmp_path / "copy.live")
        says(capsys, "convert", folder, tmp_path / "copy.mlpbank")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    before.pop("index.sqlite-shm"), after.pop("index.sqlite-shm")  # SQLite's locks
    assert after == before
