"""`python -m kinitro`."""

import sys

from kinitro.cli import main

sys.exit(main())
