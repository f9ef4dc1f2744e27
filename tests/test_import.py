"""Imports of the package: lazy, and without effect on other packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_kd
from benchmarks.import_time import BASELINE

HEAVY = {"datasets", "jsonargparse", "lightning", "torch", "torchmetrics", "transformers"}


def imported_modules(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import lightning_kd; lightning_kd.__version__", set()),
        ("import lightning_kd.cli.main", set()),
        ("import lightning_kd.losses", {"torch"}),
    ],
)
def test_imports_are_lazy(code, expected):
    assert imported_modules(code) & HEAVY == expected


def test_fit_imports_no_other_package():
    """Loading transformers' model code would also import torchao and bitsandbytes where they are installed."""
    added = imported_modules(f"{BASELINE}\nimport lightning_kd.cli.fit") - imported_modules(BASELINE)
    assert {name.partition(".")[0] for name in added} <= {"importlib", "lightning_kd", "safetensors", "transformers"}
    assert "transformers.modeling_utils" not in added


def test_public_names_are_those_that_type_checkers_see():
    tree = ast.parse(Path(lightning_kd.__file__).read_text(encoding="utf-8"))
    imports = [
        (alias.name, node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        for alias in node.names
    ]
    assert sorted(name for name, _ in imports) == lightning_kd.__all__
    for name, module in imports:
        assert getattr(lightning_kd, name) is getattr(sys.modules[module], name)
    assert set(lightning_kd.__all__) < set(dir(lightning_kd))


def test_subpackages_and_unknown_names():
    assert lightning_kd.losses.SoftTargetLoss.__module__ == "lightning_kd.losses.soft_target"
    with pytest.raises(AttributeError, match="NoSuchLoss"):
        lightning_kd.NoSuchLoss  # noqa: B018


SHOW_CHANGES = """
import logging, warnings
import lightning.pytorch, transformers, torchmetrics.text, torch.distributed.fsdp, datasets
from lightning.pytorch.strategies import StrategyRegistry

def state():
    names = ("", "lightning", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    loggers = [(logger.level, list(logger.filters), list(logger.handlers)) for logger in loggers]
    return StrategyRegistry.available_strategies(), list(warnings.filters), loggers

before = state()
import lightning_kd
for name in lightning_kd.__all__:
    getattr(lightning_kd, name)
print([old == new for old, new in zip(before, state())])
"""


def test_import_changes_nothing_outside():
    """Lightning's strategies, warning filters and loggers stay as they were."""
    done = subprocess.run([sys.executable, "-c", SHOW_CHANGES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[True, True, True]"
