"""The check of a GPU, on a CPU: what can be done there works, and the rest is left out by name."""

from collections.abc import Iterator

import pytest

from benchmarks import check_gpu
from benchmarks.check_gpu import (
    CHECKS,
    FAILED,
    LEFT_OUT,
    NEEDS_GPU,
    PASSED,
    Figures,
    Finding,
    Job,
    compared,
    findings_of,
    run_in_own_process,
    table,
)

ON_CPU = {
    "separator": {"float32": PASSED, "bfloat16": PASSED, "float16": LEFT_OUT},
    "features": {"features": PASSED},
    "encoder": {
        "float32": PASSED,
        "bfloat16": PASSED,
        "gloo, one rank": PASSED,
        "bfloat16, compiled": LEFT_OUT,
    },
    "transfer": {"console": PASSED},
}


@pytest.mark.parametrize("name", CHECKS)
def test_checks_on_a_cpu(name: str) -> None:
    found = list(findings_of(Job(name, "cpu", is_tiny=True)))
    assert {f.what: f.status for f in found} == ON_CPU.get(name, {name: LEFT_OUT})
    assert all(f.reason == NEEDS_GPU for f in found if f.status == LEFT_OUT)
    if name == "separator":
        # The CPU differs from itself by rounding alone, and half precision is another thing.
        exact, rounded, _ = (f.difference for f in found)
        assert exact < -100 < rounded


def test_a_difference_above_its_limit_fails() -> None:
    figures = Figures(1.0)
    assert compared("a", 0.1, 0.1, figures, figures).status == PASSED
    assert compared("a", 0.11, 0.1, figures, figures).status == FAILED
    broken = compared("a", float("nan"), 0.1, figures, figures)
    assert (broken.status, broken.difference) == (FAILED, None)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(package: str) -> None:
        def run(job: Job) -> Iterator[Finding]:
            yield Finding(what="first")
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)

        monkeypatch.setitem(check_gpu.CHECKS, "features", (run, False))

    needs("soundfile.part")
    first, second = findings_of(Job("features", "cpu"))
    assert first.status == PASSED
    assert (second.status, second.reason) == (LEFT_OUT, "not installed: soundfile")
    # A module of our own that is missing is an error.
    needs("mixprint.gone")
    with pytest.raises(ModuleNotFoundError):
        list(findings_of(Job("features", "cpu")))


def test_a_check_that_ends_badly_is_a_finding() -> None:
    (finding,) = run_in_own_process(Job("no such check", "cpu"), 60.0)
    assert finding["status"] == FAILED
    assert "no such check" in finding["reason"]
    (finding,) = run_in_own_process(Job("features", "cpu"), 0.05)
    assert "took longer" in finding["reason"]
    (finding,) = run_in_own_process(Job("features", "cpu"), 0.0)
    assert finding["status"] == LEFT_OUT
    text = table({"device": "cpu", "torch": "2", "checks": {"features": [finding]}})
    assert "| features | features | left out |" in text
