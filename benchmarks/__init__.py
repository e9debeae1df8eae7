"""Speed: what is timed, against what, with what result."""

import os

# Read when torch starts; threads that spin while they wait slow each other down on a machine that does other work too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
