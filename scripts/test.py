"""Check everything from a bare clone: ``python3 scripts/test.py [arguments for pytest]``.

Needs nothing but Python 3.11 or newer. Lint, types and the architecture first, then every test; the
last line counts them, and the exit code is 0 only if all is well. With arguments for pytest (``-k
name``, ``-x``) the same runs with them; with the path of a test, that test alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import environment
from environment import CHECKOUT

REDIS = ("redis-server", "redis-check-rdb")


def main() -> int:
    python = environment.prepare("dev")
    with environment.alone():
        if not any(shutil.which(name) for name in REDIS):
            # The tools hold the server's binary; the server's package would start a service.
            environment.install_debian("redis-tools", "tests run on Redis as well as on Valkey")
        if shutil.which("systemd-analyze") is None:
            # Its files only: nothing is started where another process is the first one.
            environment.install_debian("systemd", "systemd reads the unit that is printed")
    arguments = sys.argv[1:]
    named = [CHECKOUT / word.split("::")[0] for word in arguments if word[0] != "-"]
    only = [path for path in named if path.exists()]
    of_clients = any(path.is_relative_to(CHECKOUT / "tests" / "clients") for path in only)
    with tempfile.TemporaryDirectory() as results:
        command = [
            *(str(python), "-m", "nox", "--noxfile", str(CHECKOUT / "noxfile.py")),
            *("--report", str(Path(results, "nox.json"))),
            *(("--sessions", "clients" if of_clients else "tests") if only else ()),
            *("--", *arguments),
        ]
        path = os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath)))
        variables = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(environment.VENV)}
        variables["TEST_RESULTS_FOLDER"] = results
        variables.pop("PYTHONPATH", None)
        code = subprocess.run(command, cwd=CHECKOUT, env=variables, check=False).returncode
        passed, failed, skipped = count(Path(results))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return code or bool(failed)


def count(results: Path) -> tuple[int, int, int]:
    """Tests that passed, failed and were skipped; a check that is no test counts as one."""
    try:
        sessions = json.loads((results / "nox.json").read_text())["sessions"]
    except (OSError, ValueError):
        return 0, 1, 0
    passed = failed = skipped = 0
    for session in sessions:
        report = results / f"{session['name']}.xml"
        ok = session["result"] in ("success", "skipped")
        if not report.exists():
            passed, failed = passed + (session["result"] == "success"), failed + (not ok)
            continue
        bad = 0
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            tests, idle = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            wrong = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            passed, bad, skipped = passed + tests - wrong - idle, bad + wrong, skipped + idle
        failed += bad or (not ok)
    return passed, failed, skipped


if __name__ == "__main__":
    sys.exit(main())
