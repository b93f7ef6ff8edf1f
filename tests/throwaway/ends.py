"""A metric whose module ends the program."""

import sys

sys.exit(0)
