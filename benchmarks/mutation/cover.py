"""Which tests run which lines, and how long each takes: measured once, with coverage's contexts."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.mutation.fork import OPTIONS

PACKAGES = ("attacks", "bounds", "methods", "evaluation", "certification", "diagnostics")
GROUPS = {
    "attacks": ("tests/attacks", "tests/contracts/every_attack.py", "tests/reference/test_attacks.py"),
    "bounds": ("tests/bounds", "tests/reference/test_bounds.py", "tests/reference/test_pair.py"),
    "methods": ("tests/methods", "tests/contracts/every_method.py", "tests/reference/test_methods.py"),
    "evaluation": ("tests/evaluation",),
    "certification": ("tests/certification",),
    "diagnostics": ("tests/diagnostics",),
}


@dataclass(frozen=True)
class Cover:
    """The seconds of every test that passed, and by module the tests that run each line."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, tuple[str, ...]]]

    def of(self, module: str, spans: Iterable[tuple[int, int]], budget: float) -> list[str]:
        """Return the tests that run the first of these spans of lines that any test runs, those of its mirror first.

        What runs at the import alone, such as a default, may be looked at by any test of the package: these are chosen
        as well. The quick ones come first, as many as ``budget`` seconds hold.
        """
        lines = self.lines.get(module, {})
        package, stem = Path(module).parent, Path(module).stem
        mirror = f"tests/{package}/test_{stem}.py"
        found: set[str] = set()
        at_import = False
        for first, last in spans:
            found = {test for line in range(first, last + 1) for test in lines.get(line, ())}
            if found:
                break
            at_import = True
        if at_import and lines:
            mirror = ""  # all alike
            found |= {test for test in self.seconds if test.startswith(f"tests/{package}/")}
        chosen, spent = [], 0.0
        for test in sorted(found, key=lambda test: (not test.startswith(mirror), self.seconds[test], test)):
            spent += self.seconds[test]
            if spent > budget and chosen:
                break
            chosen.append(test)
        return chosen


class _Recorder:
    """A plugin of pytest: every test is a context of coverage's."""

    def __init__(self, coverage: Any) -> None:
        self.coverage, self.seconds, self.failed, self.started = coverage, {}, set(), 0.0

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.started = time.process_time()
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self.seconds[nodeid] = time.process_time() - self.started
        self.coverage.switch_context("")


def record(root: Path, group: str, file: Path) -> None:
    """Run a group's tests and write what each runs; to be called in a process of its own, nothing of ours imported."""
    import coverage
    import pytest

    # include, not source: a source is looked at for files never imported, too.
    measured = coverage.Coverage(
        data_file=None, config_file=False, include=[str(root / "src/overproof" / p / "*") for p in PACKAGES]
    )
    measured.start()
    recorder = _Recorder(measured)
    pytest.main([*GROUPS[group], *OPTIONS], plugins=[recorder])
    measured.stop()
    data, lines = measured.get_data(), {}
    for path in data.measured_files():
        module = str(Path(path).relative_to(root / "src/overproof"))
        lines[module] = {
            line: [test for test in tests if test and test not in recorder.failed]
            for line, tests in data.contexts_by_lineno(path).items()
        }
    file.write_text(json.dumps({"seconds": recorder.seconds, "lines": lines, "failed": sorted(recorder.failed)}))


def read(files: Iterable[Path]) -> Cover:
    """Return what was recorded, put together."""
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, tuple[str, ...]]] = {}
    for file in files:
        found = json.loads(file.read_text())
        seconds |= found["seconds"]
        for module, by_line in found["lines"].items():
            ours = lines.setdefault(module, {})
            for line, tests in by_line.items():
                ours[int(line)] = tuple({*ours.get(int(line), ()), *tests})
    return Cover(seconds, lines)
