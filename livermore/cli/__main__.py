"""``python -m livermore.cli``, as ``python -m livermore``."""

import sys

from livermore.cli import main

sys.exit(main())
