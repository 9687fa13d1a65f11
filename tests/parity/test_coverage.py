"""No golden number lies unread: every output and gradient that is shipped is compared by some parity test."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden import FOLDER

# What the official code returns besides the numbers themselves.
_COMPARED = re.compile(r"(^|/)(out|grad|gradstat\w*)/")


@pytest.mark.slow
def test_every_output_and_gradient_is_asked_for(tmp_path: Path) -> None:
    asked_file = tmp_path / "asked.json"
    chosen = ["-p", "no:cacheprovider", str(Path(__file__).parent), f"--ignore={__file__}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *chosen],
        env=os.environ | {"VIDSIFT_GOLDEN_KEYS": str(asked_file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    asked = {name: set(keys) for name, keys in json.loads(asked_file.read_text()).items()}
    unread = []
    for path in sorted(FOLDER.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            stored = [key for key in file.files if _COMPARED.search(key)]
        assert path.stem in asked, f"{path.name}: no test reads it"
        unread += [f"{path.stem}: {key}" for key in stored if key not in asked[path.stem]]
    assert not unread
