"""``python -m livermore.cli``."""

import sys

from livermore.cli import main

sys.exit(main())
