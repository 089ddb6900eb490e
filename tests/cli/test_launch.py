"""The way into the command line."""

import subprocess
import sys

LOST = """
import os, signal, time
from stssl.cli.launch import redeliver_interrupts

signal.signal(signal.SIGTERM, signal.default_int_handler)
redeliver_interrupts()

class Owner:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass  # here the interpreter answers the signal

try:
    owner = Owner()
    del owner
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_in_a_destructor_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "interrupted\n" and "ignored" not in done.stderr
