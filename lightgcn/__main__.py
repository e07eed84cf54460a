"""`python -m lightgcn`: the command line."""

import sys

from lightgcn.cli.main import main

sys.exit(main())
