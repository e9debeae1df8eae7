"""What all tests share."""

import os

# Read when torch starts; threads that spin make tests many times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
