"""``lightning-kd`` itself: its help, its version, and the table of commands."""

import pytest

import lightning_kd
from lightning_kd.cli.main import COMMANDS


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help_lists_all_commands(args, shell):
    code, shown = shell(*args)
    assert code == 0
    lines = [line.split() for line in shown.splitlines()]
    listed = [line[0] for line in lines if line and line[0] in COMMANDS and len(line) > 2]
    expected = "fit validate test predict cache report probe tune export consolidate sagemaker"
    assert listed == list(COMMANDS) == expected.split()


def test_version(shell):
    assert shell("--version") == (0, f"lightning-kd {lightning_kd.__version__}")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["fti"], "'fti'; did you mean 'fit'?"),
        (["distil-this-please"], "'distil-this-please'; choose from fit, validate"),
        (["--verion"], "--verion"),
    ],
)
def test_unknown_command(args, problem, shell):
    code, last = shell(*args)
    assert code == 2
    assert problem in last


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, shell):
    code, shown = shell(command, "--help")
    assert code == 0
    assert f"usage: lightning-kd {command} " in shown
