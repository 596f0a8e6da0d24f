"""Fail where a test is skipped in every environment and ``skips.txt`` does not excuse it: skips.py EXCUSES REPORT...

The reports are pytest's ``--junitxml``. A module that is skipped as a whole counts as run where another report has
results of its tests.
"""

import sys
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree


def outcomes(report: Path) -> tuple[set[str], dict[str, str]]:
    """Return the tests that ran, as ``module::name``, and what was skipped, a test or a whole module, with reasons."""
    ran, skipped = set[str](), dict[str, str]()
    for case in ElementTree.parse(report).iter("testcase"):
        module, name = case.get("classname", ""), case.get("name", "")
        test = f"{module}::{name}" if module else name
        skip = case.find("skipped")
        if skip is None:
            ran.add(test)
        else:
            skipped[test] = skip.get("message", "")
    return ran, skipped


def excuses(file: Path) -> dict[str, str]:
    """Return the patterns of tests that may be skipped, with the reasons."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    found = {pattern: reason.strip() for pattern, _, reason in (line.partition("  ") for line in lines)}
    if not all(found.values()):
        raise SystemExit(f"{file}: every pattern needs a reason, after two spaces")
    return found


def unexcused(allowed: dict[str, str], reports: list[Path]) -> dict[str, str]:
    """Return the tests that no report has run and no pattern allows to skip, with pytest's reason."""
    ran, skipped = set[str](), dict[str, str]()
    for report in reports:
        mine, theirs = outcomes(report)
        ran |= mine
        skipped |= theirs
    never = {
        test: why
        for test, why in skipped.items()
        if test not in ran and ("::" in test or not any(one.startswith((f"{test}.", f"{test}::")) for one in ran))
    }
    return {test: why for test, why in never.items() if not any(fnmatch(test, pattern) for pattern in allowed)}


def main() -> None:
    """Print every unexcused skip, and exit with 1 where there is one."""
    allowed, *reports = map(Path, sys.argv[1:])
    found = unexcused(excuses(allowed), reports)
    for test, why in found.items():
        print(f"{test} was skipped in every environment: {why}; run it in CI, or add it to {allowed} with a reason")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
