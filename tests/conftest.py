"""What every test may rely on."""

import os

# One thread a process, set before torch is loaded: our matrices are small, and the processes of pytest-xdist share the cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
