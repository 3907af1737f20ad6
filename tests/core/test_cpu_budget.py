"""How many threads may work: the least of two variables, the affinity and the cgroup's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cases import RunPython, raises
from mlpbank import CpuBudget, Engine, _core, cpu_budget, engine


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> int:
    """The budget without variables."""
    monkeypatch.delenv("MLPBANK_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return cpu_budget().threads


def test_budget_is_at_least_one_and_at_most_the_affinity(available: int) -> None:
    assert 1 <= available <= len(os.sched_getaffinity(0))


def test_budget_says_its_limits_and_which_is_the_least(
    available: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {
        "MLPBANK_NUM_THREADS": None,
        "OMP_NUM_THREADS": None,
        "affinity": len(os.sched_getaffinity(0)),
    }
    cgroup = cpu_budget().limits["cgroup"]
    assert cpu_budget().limits == {**limits, "cgroup": cgroup}
    for name in ("OMP_NUM_THREADS", "MLPBANK_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
        limits[name] = 1
        if available > 1:
            assert cpu_budget() == CpuBudget(1, {**limits, "cgroup": cgroup}, name)
        assert int(cpu_budget()) == 1
        monkeypatch.delenv(name)
        limits[name] = None


def test_budget_of_a_quota_is_rounded_up(tmp_path: Path, available: int) -> None:
    assert cgroup(tmp_path, "0::/app\n", **{"app/cpu.max": "50000 100000"}) == 0.5
    found = engine._read(str(tmp_path))
    assert found.threads == 1
    assert found.limits["cgroup"] == 0.5
    if len(os.sched_getaffinity(0)) > 1:
        assert found.reason == "cgroup"
        assert repr(found) == (
            "CpuBudget(threads=1, limits={'MLPBANK_NUM_THREADS': None, 'OMP_NUM_THREADS': None, "
            f"'affinity': {len(os.sched_getaffinity(0))}, 'cgroup': 0.5}}, reason='cgroup')"
        )


@pytest.mark.parametrize("name", ["MLPBANK_NUM_THREADS", "OMP_NUM_THREADS"])
def test_variables_lower_the_budget_and_never_raise_it(
    available: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (1, 2, 3, 1000):
        monkeypatch.setenv(name, str(value))
        assert cpu_budget().threads == Engine().num_threads == min(value, available)


def test_the_smaller_variable_counts(available: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for own, others in [("1", "1000"), ("1000", "1")]:
        monkeypatch.setenv("MLPBANK_NUM_THREADS", own)
        monkeypatch.setenv("OMP_NUM_THREADS", others)
        assert cpu_budget().threads == 1


def test_outermost_number_of_an_openmp_list_counts(
    available: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1,8")
    assert cpu_budget().threads == 1


WRONG = ["0", "-1", "two", "1.5", "2 threads", "99999999999999999999"]


@pytest.mark.parametrize("name", ["MLPBANK_NUM_THREADS", "OMP_NUM_THREADS"])
def test_largest_number_that_counts(
    available: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(2**20))
    assert cpu_budget().limits[name] == 2**20
    for more in (2**20 + 1, 2**21, 2**31, 2**32 + 1, 2**63):
        monkeypatch.setenv(name, str(more))
        if name == "OMP_NUM_THREADS":
            assert cpu_budget().limits[name] is None
        else:
            with raises(
                ValueError, f"MLPBANK_NUM_THREADS: expected a positive integer, got '{more}'"
            ):
                cpu_budget()


def test_reason_is_a_limit_that_lowers(
    available: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal ones the first: affinity, cgroup, OMP_NUM_THREADS, MLPBANK_NUM_THREADS."""
    cpus = len(os.sched_getaffinity(0))
    cgroup(tmp_path, "0::/app\n", **{"app/cpu.max": f"{cpus}00000 100000"})
    (tmp_path / "none").mkdir()
    for name in ("MLPBANK_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, str(cpus))
    for root in (tmp_path, tmp_path / "none"):
        found = engine._read(str(root))
        assert (found.threads, found.reason) == (cpus, "affinity")
    if cpus == 1:
        return
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MLPBANK_NUM_THREADS", "1")
    assert engine._read(str(tmp_path)).reason == "OMP_NUM_THREADS"
    cgroup(tmp_path / "one", "0::/app\n", **{"app/cpu.max": "100000 100000"})
    assert engine._read(str(tmp_path / "one")).reason == "cgroup"


def test_no_quota_is_none(available: int, tmp_path: Path) -> None:
    assert engine._read(str(tmp_path)).limits["cgroup"] is None
    cgroup(tmp_path, "0::/app\n", **{"app/cpu.max": "max 100000"})
    assert engine._read(str(tmp_path)).limits["cgroup"] is None


@pytest.mark.parametrize(
    ("quota", "threads"), [(100000, 1), (100001, 2), (110000, 2), (149999, 2), (199999, 2)]
)
def test_any_part_of_a_cpu_counts_as_one(
    tmp_path: Path, available: int, quota: int, threads: int
) -> None:
    cgroup(tmp_path, "0::/app\n", **{"app/cpu.max": f"{quota} 100000"})
    assert engine._read(str(tmp_path)).threads == min(threads, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("value", WRONG)
def test_own_variable_must_be_a_positive_integer(
    available: int, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLPBANK_NUM_THREADS", value)
    with raises(ValueError, f"MLPBANK_NUM_THREADS: expected a positive integer, got '{value}'"):
        Engine()


def test_own_variable_may_be_empty(available: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLPBANK_ISA may: that is how a variable is unset in many a service's configuration."""
    monkeypatch.setenv("MLPBANK_NUM_THREADS", "")
    assert cpu_budget().threads == available


@pytest.mark.parametrize("value", [*WRONG, ""])
def test_openmps_variable_is_ignored_when_it_is_wrong(
    available: int, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cpu_budget().threads == available


def test_affinity_lowers_the_budget(run_python: RunPython) -> None:
    script = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import mlpbank
        budget = int(mlpbank.cpu_budget())
        print(budget, mlpbank.Engine().num_threads, mlpbank.Engine(8).num_threads)
    """
    assert run_python(script) == "1 1 1"


def test_command_line_says_the_budget(run_python: RunPython) -> None:
    script = """
        from mlpbank.cli import main
        main(["info"])
    """
    last = run_python(script, MLPBANK_NUM_THREADS="1").splitlines()[-1]
    assert last.startswith("threads: 1, limited by ")
    assert "MLPBANK_NUM_THREADS 1, OMP_NUM_THREADS none, affinity " in last


def test_affinity_changed_later_counts_for_new_engines(run_python: RunPython) -> None:
    script = """
        import os
        import mlpbank
        mlpbank.Engine()
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(mlpbank.Engine().num_threads)
    """
    assert run_python(script) == "1"


def cgroup(root: Path, groups: str, **files: str) -> float:
    """Return the quota found below `root`, with cpu_max="group/cpu.max text" for each file."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return _core.cgroup_cpus(str(root))


def test_no_cgroup_at_all(tmp_path: Path) -> None:
    assert _core.cgroup_cpus(str(tmp_path)) == 0
    assert _core.cgroup_cpus(str(tmp_path / "missing")) == 0


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("150000 100000\n", 1.5),
        ("100000 100000\n", 1),
        ("5000 100000", 0.05),
        ("800000 50000\n", 16),
        ("max 100000\n", 0),
        ("max", 0),
    ],
)
def test_quota_of_version_2(tmp_path: Path, text: str, cpus: float) -> None:
    assert cgroup(tmp_path, "0::/app\n", **{"app/cpu.max": text}) == pytest.approx(cpus)


def test_quota_of_version_2_in_a_container(tmp_path: Path) -> None:
    """A container with a namespace of its own sees its group as the root."""
    assert cgroup(tmp_path, "0::/\n", **{"cpu.max": "300000 100000\n"}) == 3


def test_smallest_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    files = {
        "a/cpu.max": "400000 100000",
        "a/b/cpu.max": "200000 100000",
        "a/b/c/cpu.max": "max 100000",
    }
    assert cgroup(tmp_path, "0::/a/b/c\n", **files) == 2


@pytest.mark.parametrize(
    "quotas", [(2, 4, 3), (4, 2, 3), (4, 3, 2), (2, 3, 0), (0, 2, 3), (3, 0, 2)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_smallest_quota_counts_at_whichever_level(
    tmp_path: Path, version: int, quotas: tuple[int, ...]
) -> None:
    files = {}
    for folder, cpus in zip(("a", "a/b", "a/b/c"), quotas, strict=True):
        if version == 2:
            files[f"{folder}/cpu.max"] = f"{cpus}00000 100000" if cpus else "max 100000"
        else:
            files[f"cpu/{folder}/cpu.cfs_quota_us"] = f"{cpus}00000" if cpus else "-1"
            files[f"cpu/{folder}/cpu.cfs_period_us"] = "100000"
    groups = "0::/a/b/c\n" if version == 2 else "3:cpuset:/\n2:cpu,cpuacct:/a/b/c\n"
    assert cgroup(tmp_path, groups, **files) == 2


def test_quotas_of_other_groups_do_not_count(tmp_path: Path) -> None:
    files = {
        "a/cpu.max": "400000 100000",
        "b/cpu.max": "100000 100000",
        "a/below/cpu.max": "100000 100000",
    }
    assert cgroup(tmp_path, "0::/a\n", **files) == 4


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_quota_of_version_1(tmp_path: Path, controllers: str) -> None:
    files = {"cpu/app/cpu.cfs_quota_us": "250000\n", "cpu/app/cpu.cfs_period_us": "100000\n"}
    groups = f"9:name=systemd:/app\n3:cpuset:/app\n2:{controllers}:/app\n"
    assert cgroup(tmp_path, groups, **files) == 2.5


def test_nested_quota_of_version_1(tmp_path: Path) -> None:
    files = {
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "cpu/a/cpu.cfs_quota_us": "100000",
        "cpu/a/cpu.cfs_period_us": "50000",
        "cpu/a/b/cpu.cfs_quota_us": "600000",
        "cpu/a/b/cpu.cfs_period_us": "100000",
    }
    assert cgroup(tmp_path, "2:cpu:/a/b\n", **files) == 2


@pytest.mark.parametrize(
    ("quota", "period"),
    [
        ("-1", "100000"),
        ("0", "100000"),
        ("", "100000"),
        ("200000", "0"),
        ("200000", ""),
        ("200000", "-1"),
    ],
)
def test_no_quota_of_version_1(tmp_path: Path, quota: str, period: str) -> None:
    files = {"cpu/app/cpu.cfs_quota_us": quota, "cpu/app/cpu.cfs_period_us": period}
    assert cgroup(tmp_path, "2:cpu:/app\n", **files) == 0


def test_other_controllers_of_version_1_do_not_count(tmp_path: Path) -> None:
    files = {"cpu/app/cpu.cfs_quota_us": "100000", "cpu/app/cpu.cfs_period_us": "100000"}
    assert cgroup(tmp_path, "2:cpuacct:/app\n3:cpuset:/app\n", **files) == 0


MOUNTS = """\
24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
31 24 0:27 {top} {mount} rw,nosuid shared:9 - {kind} {kind} rw{options}
no mount at all
"""


def test_hierarchies_are_found_where_they_are_mounted(tmp_path: Path) -> None:
    """Version 2 has a folder of its own then, and version 1 a folder by controllers."""
    for kind, mount, options, groups, files in [
        (
            "cgroup2",
            "unified",
            "",
            "0::/a/b\n",
            {"a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"},
        ),
        (
            "cgroup",
            "cpu,cpuacct",
            ",cpu,cpuacct",
            "4:cpu,cpuacct:/a/b\n",
            {"a/cpu.cfs_quota_us": "300000", "a/cpu.cfs_period_us": "100000"},
        ),
    ]:
        root = tmp_path / kind
        found = {f"{mount}/{path}": text for path, text in files.items()}
        assert cgroup(root, groups, **found) == 0
        mounts = MOUNTS.format(top="/", mount=f"/sys/fs/cgroup/{mount}", kind=kind, options=options)
        (root / "proc/self/mountinfo").write_text(mounts)
        assert _core.cgroup_cpus(str(root)) == 3


def test_mounts_of_other_controllers_and_broken_lines_do_not_count(tmp_path: Path) -> None:
    """Those of cpuset and cpuacct begin like cpu, and are mounted before and after it."""
    files = {}
    for mount, cpus in [("cpuset", 1), ("cpuacct", 2), ("cpu", 3)]:
        files |= {
            f"v1/{mount}/a/cpu.cfs_quota_us": f"{cpus}00000",
            f"v1/{mount}/a/cpu.cfs_period_us": "100000",
        }
    cgroup(tmp_path, "nonsense\n:\n4:cpuset:/a\n3:cpuacct:/a\n2:cpu:/a\n", **files)
    line = "31 24 0:27 / /sys/fs/cgroup/v1/{0} rw,nosuid shared:9 - cgroup cgroup rw,{0}\n"
    mounts = [
        "no mount at all\n",
        *(line.format(name) for name in ("cpuset", "cpu", "cpuset", "cpuacct")),
    ]
    (tmp_path / "proc/self/mountinfo").write_text("".join(mounts))
    assert _core.cgroup_cpus(str(tmp_path)) == 3


@pytest.mark.parametrize(
    ("group", "cpus"), [("/docker/id", 3), ("/docker/id/inner", 2), ("/docker/identical", 3)]
)
def test_version_1_mounted_below_its_top(tmp_path: Path, group: str, cpus: float) -> None:
    files = {}
    for folder, quota in [("", 3), ("inner/", 2), ("entical/", 1)]:
        files |= {
            f"{folder}cpu.cfs_quota_us": f"{quota}00000",
            f"{folder}cpu.cfs_period_us": "100000",
        }
    cgroup(
        tmp_path,
        f"4:cpu,cpuacct:{group}\n",
        **{f"cpu,cpuacct/{path}": text for path, text in files.items()},
    )
    mounts = MOUNTS.format(
        top="/docker/id", mount="/sys/fs/cgroup/cpu,cpuacct", kind="cgroup", options=",cpu,cpuacct"
    )
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    assert _core.cgroup_cpus(str(tmp_path)) == cpus


@pytest.mark.parametrize(
    ("group", "cpus"),
    [("/docker/id", 3), ("/docker/id/inner", 2), ("/docker/identical", 3), ("/docker", 3)],
)
def test_container_without_a_cgroup_namespace(tmp_path: Path, group: str, cpus: float) -> None:
    """It sees its own group as the root of the mount, but the whole path in /proc/self/cgroup."""
    files = {
        "cpu.max": "300000 100000",
        "inner/cpu.max": "200000 100000",
        "entical/cpu.max": "100000 100000",
    }
    cgroup(tmp_path, f"0::{group}\n", **files)
    mounts = MOUNTS.format(top="/docker/id", mount="/sys/fs/cgroup", kind="cgroup2", options="")
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    assert _core.cgroup_cpus(str(tmp_path)) == cpus


def test_group_outside_of_the_namespace(tmp_path: Path) -> None:
    assert cgroup(tmp_path, "0::/../sibling\n", **{"cpu.max": "300000 100000"}) == 3


@pytest.mark.parametrize("quotas", [("3", "2"), ("2", "3")])
@pytest.mark.parametrize("groups", ["2:cpu:/app\n0::/slice\n", "0::/slice\n2:cpu:/app\n"])
def test_both_versions_at_once(tmp_path: Path, groups: str, quotas: tuple[str, str]) -> None:
    files = {
        "cpu/app/cpu.cfs_quota_us": f"{quotas[0]}00000",
        "cpu/app/cpu.cfs_period_us": "100000",
        "slice/cpu.max": f"{quotas[1]}00000 100000",
    }
    assert cgroup(tmp_path, groups, **files) == 2


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ("0::/app\n", "nonsense"),
        ("0::/app\n", ""),
        ("0::/app\n", "100000"),
        ("0::/app\n", "100000 0"),
        ("0::/app\n", "-100000 100000"),
        ("", "100000 100000"),
        ("garbage\n0:\n:\n\n", "100000 100000"),
        ("0::relative", "100000 100000"),
        ("0::/" + "x/" * 2000 + "\n", "max"),
        ("0::/app\0/more\n", "nonsense"),
    ],
)
def test_broken_files_mean_no_quota(tmp_path: Path, groups: str, text: str) -> None:
    assert cgroup(tmp_path, groups, **{"app/cpu.max": text}) == 0


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/app/cpu.max").mkdir(parents=True)
    assert cgroup(tmp_path, "0::/app\n") == 0
