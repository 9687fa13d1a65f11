"""Makes `golden`, the helper beside this file, importable under any of pytest's import modes."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_unconfigure() -> None:
    """Write down which golden keys were asked for, where `test_coverage` wants to know."""
    target = os.environ.get("VIDSIFT_GOLDEN_KEYS")
    if target:
        from golden import ASKED

        Path(target).write_text(json.dumps({name: sorted(keys) for name, keys in ASKED.items()}))
