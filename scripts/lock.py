"""Write the lock files anew: exact versions and the hashes of every file of each.

They hold for Python 3.11 and newer on every platform at once (environment markers), and name no
index: where packages come from is the installing machine's business. Run it after changing
``pyproject.toml``; ``--upgrade`` takes the newest versions as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
COMPILE = (
    "pip compile --universal --python-version 3.11 --generate-hashes "
    "--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet"
).split()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = str(Path(directory, "bin", "python"))
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        ours = ["pyproject.toml", "--extra", "build"]
        locks = {
            "requirements.lock": ours,
            # The same versions as at run time: what is tested is what runs.
            "requirements-dev.lock": [*ours, "--extra", "dev", "--constraint", "requirements.lock"],
            "requirements-clients.lock": ["--group", "clients"],
        }
        for lock, what in locks.items():
            command = [python, "-m", "uv", *COMPILE, *what, "--output-file", lock, *sys.argv[1:]]
            subprocess.run(command, check=True, cwd=CHECKOUT, env={**os.environ, "NO_COLOR": "1"})
            if "://" in (CHECKOUT / lock).read_text():
                sys.exit(f"{lock} names a host: {lock} must hold for every index")


if __name__ == "__main__":
    main()
