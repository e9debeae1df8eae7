"""One file for each stage of dvc.yaml: parse, build, run, write."""

import os

# Threads that spin while they wait slow each other down many times over on a machine that does other work too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
