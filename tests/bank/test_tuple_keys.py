"""Keys that are tuples: everywhere a key is taken, in files, and as the columns of a table."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import raises
from format_reader import BankFile
from mlpbank import Architecture, Bank, BankFileError, UnknownModelError
from mlpbank.files import _mapped

ARCH = Architecture.mlp(1, 1)
KEYS: list[Any] = [("A", 1), ("A", 2), ("B", 1), ("", -(2**63)), ("é\0\U0001f6eb", 2**63 - 1)]


def weights(i: int) -> dict[str, Any]:
    return {"layer_0": [0], "layer_0.bias": [i]}


def make(keys: list[Any]) -> Bank:
    """Return a bank whose model i answers i; the first half from the table, the others added."""
    half = len(keys) // 2
    stacked = {"layer_0": np.zeros((half, 1, 1)), "layer_0.bias": np.arange(half).reshape(half, 1)}
    bank = Bank.from_stacked(keys[:half], ARCH, stacked)
    for i in range(half, len(keys)):
        bank[keys[i]] = weights(i)
    return bank


def answers(bank: Bank, keys: Any, **options: Any) -> list[float]:
    found: list[float] = bank.predict(keys, np.ones((len(keys), 1)), **options)[:, 0].tolist()
    return found


def test_a_tuple_is_a_key_wherever_one_is_taken() -> None:
    bank = make(KEYS)
    assert answers(bank, KEYS[::-1]) == [4, 3, 2, 1, 0]
    assert answers(bank, tuple(KEYS)) == [0, 1, 2, 3, 4]
    assert bank.predict(("B", 1), [1.0]).tolist() == [2]
    assert bank.predict(("B", 1), [[1.0], [1.0]]).tolist() == [[2], [2]]
    assert list(bank) == KEYS
    assert bank.key_type == tuple[str, int]
    for i, key in enumerate(KEYS):
        assert key in bank
        assert bank[key]["layer_0.bias"].tolist() == [i]
        assert bank.get(key) is not None
        assert bank.info(key).key == key
    handles = bank.handles([("B", 1), ("A", 1)])
    assert bank.predict_handles(handles, np.ones((2, 1)))[:, 0].tolist() == [2, 0]
    del bank["A", 1]
    assert ("A", 1) not in bank
    assert bank.pop(("A", 2))["layer_0.bias"].tolist() == [1]
    bank.update({("C", 1): weights(7), ("C", 2): weights(8)})
    assert bank.setdefault(("C", 1), weights(9))["layer_0.bias"].tolist() == [7]
    bank.fallback = ("C", 2)
    assert answers(bank, [("A", 1), ("C", 1)]) == [8, 7]
    assert bank.popitem()[0] == KEYS[2]


def test_parts_do_not_run_into_each_other() -> None:
    keys = [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("a\0", "b"), ("a", "\0b")]
    bank = make(keys)
    assert answers(bank, keys) == list(range(6))
    ints = [(1, 0), (0, 1), (256, 0), (-1, -1), (0, 256)]
    assert answers(make(ints), ints) == list(range(5))
    long = tuple("a" if i % 2 else i for i in range(16))
    assert answers(make([long, (*long[:-1], "b")]), [long]) == [0]


def test_numbers_and_texts_of_numpy_are_parts() -> None:
    bank = make([("A", 1), (np.str_("A"), np.int8(2))])
    assert list(bank) == [("A", 1), ("A", 2)]
    assert {type(part) for key in bank for part in key} == {str, int}  # type: ignore[union-attr]
    assert answers(bank, [(np.str_("A"), np.int64(2)), ("A", 1.0), ("A", np.uint8(1))]) == [1, 0, 0]
    assert ("A", np.int64(2)) in bank


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("A",), "key: expected tuple[str, int] like the bank's other keys, got ('A',)"),
        (("A", "1"), "key: expected tuple[str, int] like the bank's other keys, got ('A', '1')"),
        ("A", "key: expected tuple[str, int] like the bank's other keys, got 'A'"),
        ((), "key: expected a tuple of 1 to 16 parts, got ()"),
        ((1,) * 17, "key: expected a tuple of 1 to 16 parts, got (1, "),
        (("A", None), "key[1]: expected a str or an int, got None, a missing key"),
        (("A", 1.0), "key[1]: expected a str or an int, got 1.0; use int(key)"),
        (("A", True), "key[1]: expected a str or an int, got True; use str(key) or int(key)"),
        (("A", ("B", 1)), "key[1]: expected a str or an int, got ('B', 1); use one tuple of"),
    ],
)
def test_what_cannot_be_stored(key: Any, message: str) -> None:
    bank = make(KEYS)
    with pytest.raises(TypeError) as caught:
        bank[key] = weights(0)
    assert str(caught.value).startswith(message)
    assert key not in bank
    with pytest.raises(UnknownModelError):
        bank[key]
    assert len(bank) == len(KEYS)


def test_keys_of_another_type_are_refused() -> None:
    bank = make(KEYS)
    for keys, got in (
        (["A"], "'A'; give all parts of a key, as a tuple or as columns"),
        ([1], "1; give all parts of a key, as a tuple or as columns"),
        (
            [(1, "A")],
            "(1, 'A'); its parts are in another order than the bank has them, as in ('A', 1)",
        ),
        ([("A",)], "('A',); give 2 parts"),
    ):
        with raises(TypeError, f"keys: expected tuple[str, int] like the bank's, got {got}"):
            bank.predict(keys, [[1.0]])
    with raises(
        TypeError,
        "keys[1]: expected a tuple[str, int], like the keys before, got (1, 1); use str(key[0])",
    ):
        bank.predict([("A", 1), (1, 1)], [[1.0], [1.0]])
    with raises(
        TypeError,
        "keys: expected tuple[str] like the bank's, got 'A'; a tuple of one part is a key of its "
        "own, (key,)",
    ):
        make([("A",), ("B",)]).predict(["A"], [[1.0]])
    with raises(
        TypeError,
        "keys: expected str like the bank's, got ('A',); a tuple of one part is a key of its own, "
        "use key[0]",
    ):
        make(["A", "B"]).predict([("A",)], [[1.0]])
    with raises(ValueError, "keys: expected different ones, got ('A', 1) again at position 1"):
        make([("A", 1), ("A", 1), ("B", 1), ("B", 2)])


def test_a_tuple_with_a_gap_is_a_missing_key() -> None:
    bank = make(KEYS)
    keys = [("A", 1), ("A", None), None, (np.nan, 1), ("B", 1)]
    np.testing.assert_equal(answers(bank, keys, missing="nan"), [0, np.nan, np.nan, np.nan, 2])
    with pytest.raises(UnknownModelError, match=r"missing key at row 1") as caught:
        bank.predict(keys, np.ones((5, 1)))
    assert caught.value.keys == [None, None, None]
    assert np.isnan(bank.predict(("A", None), [1.0], missing="nan"))


def test_files_keep_tuples(tmp_path: Path) -> None:
    bank = make(KEYS)
    bank.fallback = ("B", 1)
    bank.add(("D", 4), weights(5), version="new")
    bank.save(tmp_path / "b.mlpbank")
    bank.to_safetensors(tmp_path / "b.safetensors")
    for again in (
        Bank.open(tmp_path / "b.mlpbank"),
        Bank.open(tmp_path / "b.mlpbank", mmap=False),
        Bank.from_safetensors(tmp_path / "b.safetensors"),
        pickle.loads(pickle.dumps(bank)),
        Bank.from_stacked(*bank.to_stacked(), fallback=("B", 1)),
    ):
        assert list(again) == [*KEYS, ("D", 4)]
        assert (again.key_type, again.fallback) == (tuple[str, int], ("B", 1))
        assert answers(again, [*KEYS, ("D", 4), ("no", 0)]) == [0, 1, 2, 3, 4, 5, 2]
        again["A", 2] = weights(9)
        del again["A", 1]
        assert answers(again, [("A", 2), ("A", 1)]) == [9, 2]
    _mapped.verify(_mapped.open_file(tmp_path / "b.mlpbank", map_file=True))


def test_a_reader_that_knows_only_the_page_about_files_finds_tuples(tmp_path: Path) -> None:
    make(KEYS).save(tmp_path / "b.mlpbank")
    file = BankFile(tmp_path / "b.mlpbank")
    assert file.keys() == KEYS
    assert [file.find(key) for key in KEYS] == list(range(len(KEYS)))
    assert file.find(("A", 3)) is None


def test_a_bank_that_lost_all_tuples_keeps_their_type(tmp_path: Path) -> None:
    bank = make([("A", 1), ("B", 2)])
    bank.clear()
    bank.save(tmp_path / "empty.mlpbank")
    again = Bank.open(tmp_path / "empty.mlpbank")
    assert (list(again), again.key_type) == ([], tuple[str, int])
    expected = "key: expected tuple[str, int] like the bank's other keys, got 'A'"
    with raises(TypeError, f"{expected}; give all parts of a key, as a tuple or as columns"):
        again["A"] = weights(0)


def rewritten(data: bytes, old: str, new: str) -> bytes:
    """Return a bank file whose description has other words; the header keeps its length."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["mlpbank"] = header["__metadata__"]["mlpbank"].replace(old, new)
    text = json.dumps(header).encode()
    return data[:8] + text.ljust(size) + data[8 + size :]


@pytest.mark.parametrize(
    "types", ['["str"]', '["int", "int"]', '["str", "int", "int"]', '["int", "str"]']
)
def test_a_file_that_claims_other_parts_is_found_out(tmp_path: Path, types: str) -> None:
    path = tmp_path / "b.mlpbank"
    make([("A", 1), ("B", 2)]).save(path)
    path.write_bytes(rewritten(path.read_bytes(), '"keys": ["str", "int"]', f'"keys": {types}'))
    with pytest.raises(BankFileError):
        _mapped.verify(_mapped.open_file(path, map_file=False))
    with pytest.raises(BankFileError):
        list(Bank.open(path))


@pytest.mark.parametrize("types", ["[]", '["float"]', '[["str"], "int"]', '"tuple"', "[null]"])
def test_types_of_parts_that_are_none(tmp_path: Path, types: str) -> None:
    path = tmp_path / "b.mlpbank"
    make([("A", 1), ("B", 2)]).save(path)
    path.write_bytes(rewritten(path.read_bytes(), '"keys": ["str", "int"]', f'"keys": {types}'))
    with pytest.raises(BankFileError, match=r"keys: expected 'str', 'int' or a list of these"):
        Bank.open(path)


def test_tables_of_parts_are_keys() -> None:
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    bank = make(KEYS)
    frame = pd.DataFrame({"store": ["B", "A", "A"], "item": [1, 2, 1], "x": 1.0})
    parts = frame[["store", "item"]]
    fields = np.array([("B", 1), ("A", 2), ("A", 1)], [("store", "U4"), ("item", "i4")])
    for keys in (
        parts,
        pd.MultiIndex.from_frame(parts),
        list(zip(frame["store"], frame["item"], strict=True)),
        parts.apply(tuple, axis=1),
        pl.from_pandas(parts),
        pa.Table.from_pandas(parts),
        fields,
    ):
        assert answers(bank, keys) == [2, 1, 0]
    for table in (frame, pl.from_pandas(frame)):
        found = bank.predict_frame(table, key=["store", "item"], features=["x"])
        assert found.to_list() == [2, 1, 0]
    frame["item"] = [1.0, np.nan, 1.0]
    for table in (frame, pl.from_pandas(frame)):
        found = bank.predict_frame(
            table, key=["store", "item"], features=["x"], missing="nan"
        ).to_numpy()
        np.testing.assert_equal(found, [2, np.nan, 0])
    with raises(
        ValueError,
        "key: expected 2 columns, for the bank's keys are tuple[str, int], got ['store']",
    ):
        bank.predict_frame(frame, key=["store"], features=["x"])
    with raises(
        ValueError, "key: expected one column, for the bank's keys are str, got ['store', 'item']"
    ):
        make(["A", "B"]).predict_frame(frame, key=["store", "item"], features=["x"])
    assert make(["A", "B"]).predict_frame(frame, key=["store"], features=["x"]).tolist() == [
        1,
        0,
        0,
    ]


def test_keys_as_grouping_gives_them() -> None:
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    pytest.importorskip("pyarrow")  # by which Polars reads pandas' text
    frame = pd.DataFrame({"who": list("abab"), "when": [1, 1, 2, 2], "y": [0.0, 1.0, 2.0, 3.0]})
    for columns in (["who", "when"], ["who"], ["when", "who"]):
        pandas_groups = dict(iter(frame.groupby(columns)))
        polars_groups = dict(iter(pl.from_pandas(frame).group_by(columns, maintain_order=True)))
        for groups in (pandas_groups, polars_groups):
            models = {key: weights(g["y"].to_numpy()[0]) for key, g in groups.items()}
            bank = Bank.from_models(models, ARCH)
            assert list(bank) == list(models)
            assert answers(bank, list(models)) == [
                model["layer_0.bias"][0] for model in models.values()
            ]
            found = bank.predict_frame(
                frame.assign(x=1.0), key=columns, features=["x"], missing="error"
            )
            assert found.notna().all()
