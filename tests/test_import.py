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


SHOW_CHANGES = """
import logging, warnings
import lightning.pytorch, transformers, torchmetrics.text, torch.distributed.fsdp, datasets
from lightning.pytorch.strategies import StrategyRegistry

def state():
    names = ("", "lightning", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero")
    loggers = [vars(logging.getLogger(name)).copy() for name in names]
    for logger in loggers:
        logger.pop("_cache")
    return StrategyRegistry.available_strategies(), list(warnings.filters), loggers

before = state()
import lightning_kd
for name in lightning_kd.__all__:
    getattr(lightning_kd, name)
print([old == new for old, new in zip(before, state())])
"""


def test_import_changes_nothing_outside():
    """Lightning's strategies, warning filters and loggers."""
    done = subprocess.run([sys.executable, "-c", SHOW_CHANGES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[True, True, True]"
