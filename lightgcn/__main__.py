"""`python -m lightgcn`: the command line."""

import sys

from lightgcn.cli import main

sys.exit(main())
