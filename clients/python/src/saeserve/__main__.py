"""`python -m saeserve`: the command line."""

import sys

from saeserve.cli.main import main

sys.exit(main())
