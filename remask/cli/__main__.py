"""`python -m remask.cli` is `remask`."""

import sys

from remask.cli import main

sys.exit(main())
