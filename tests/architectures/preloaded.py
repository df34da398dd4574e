"""Imported once by the process that all networks' processes are forked from."""

import contextlib

from tests.architectures.zoo import stand_in_for_compiled

stand_in_for_compiled()
for package in ("torchvision.models", "timm", "transformers", "auditor", "tests.architectures.checks"):
    with contextlib.suppress(ImportError):
        __import__(package)
