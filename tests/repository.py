"""Where things stand in the checkout: tests in any folder take their files from here."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ANCHOR_TREE = ROOT / "anchors"
KERNELS = ANCHOR_TREE / "kernels"
