"""What every test may rely on."""

import os
import signal
import threading

# One thread a process, set before torch is loaded: our matrices are small, and the processes of pytest-xdist share the cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A run in the background of a shell starts with Ctrl-C ignored, and so would every process that the tests start and interrupt.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
