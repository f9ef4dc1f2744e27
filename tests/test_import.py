"""Importing the package costs little more than importing what every fit needs."""

import subprocess
import sys

from benchmarks.import_time import BASELINE

SAY_WHAT_IS_NEW = f"""
{BASELINE}
import sys
before = set(sys.modules)
import lightning_kd.cli.fit
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
print("transformers.modeling_utils" in sys.modules)
"""


def test_no_other_package_is_imported():
    """By ``--help``, for one. transformers' models bring in torchao and bitsandbytes where they are installed."""
    done = subprocess.run([sys.executable, "-c", SAY_WHAT_IS_NEW], capture_output=True, text=True, check=True)
    packages, models = done.stdout.splitlines()[-2:]
    assert set(packages.split()) <= {"importlib", "lightning_kd", "safetensors", "transformers"}
    assert models == "False"
