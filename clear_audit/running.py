"""Runs one of our modules as a process of its own, whatever PYTHONPATH says: python -P -m clear_audit.running MODULE …"""

import runpy
import sys

from clear_audit.names import own_packages_first

if __name__ == "__main__":
    own_packages_first()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
