"""The command line as a person runs it: another process, a clean environment, real exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import attrs


@attrs.frozen
class Livermore:
    """The command line in a clean environment; ``room`` is where it runs."""

    room: Path
    url: str

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "PYTHONPATH")}
        root = str(Path(__file__).parents[2])
        return {**kept, "HOME": str(self.room), "PYTHONPATH": root, "LIVERMORE_REDIS_URL": self.url}

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """Run a command in the background; ``more`` is environment."""
        return self.python("-m", "livermore.cli", *words, environment=more)

    def python(
        self,
        *words: str,
        stdin: int = subprocess.DEVNULL,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[str]:
        """Run Python in the same surroundings."""
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.room,
            env={**self.environment, "TMPDIR": str(self.room), **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **more) as process:
            out, err = process.communicate(timeout=30)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
