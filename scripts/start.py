"""Start Livermore from a bare clone: ``python3 scripts/start.py run coinbase``.

Needs nothing but Python 3.11 or newer; takes what ``livermore`` takes.
"""

import os
import shutil
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - said by an old Python, which must be able to read it
    for newer in ("python3.14", "python3.13", "python3.12", "python3.11"):
        if shutil.which(newer):
            os.execvp(newer, [newer, *sys.argv])
    sys.exit(
        "livermore: needs Python 3.11 or newer, not " + sys.version.split()[0] + "; install one"
    )

import environment

if __name__ == "__main__":
    python = environment.prepare("runtime")
    livermore = str(python.with_name("livermore"))
    os.execv(livermore, [livermore, *sys.argv[1:]])
