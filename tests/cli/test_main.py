"""``lightning-kd`` itself: its help, its version, and the table of commands."""

import os
import signal
import subprocess
import sys

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


def test_characters_that_the_console_cannot_show():
    code = (
        "from rich.console import Console; from rich.table import Table; from lightning_kd.cli import main; "
        "main.run_command = lambda args: Console().print('größe •', Table('é')); main.main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert r"gr\xf6\xdfe \u2022" in done.stdout
    assert r"\xe9" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, shell):
    code, shown = shell(command, "--help")
    assert code == 0
    assert f"usage: lightning-kd {command} " in shown


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("predict", "lightning_kd.DistillationModule.predict_step"),
        ("fit", "lightning_kd.DistillationModule.training_step"),
        ("report", "lightning_kd.cli.report.build_report"),
        ("probe", "lightning_kd.cli.probe.probe_models"),
        ("export", "lightning_kd.cli.export.load_model"),
    ],
)
def test_interrupt(tmp_path, config, clinc_file, teacher_folder, shell, monkeypatch, command, function):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    texts, output = tmp_path / "texts.txt", tmp_path / "output"
    texts.write_text("hello\n")
    monkeypatch.setattr(function, interrupt)
    handler = signal.getsignal(signal.SIGINT)
    data_args = ["--output_dir", output, "--data=CLINC150DataModule", f"--data.path={clinc_file}"]
    arguments = {
        "predict": ["--config", config, f"--data.init_args.predict_path={texts}", f"--predictions.path={output}"],
        "fit": ["--config", config],
        "report": ["--models", teacher_folder, *data_args],
        "probe": ["--teacher", teacher_folder, *data_args],
        "export": ["onnx", "--model", teacher_folder, *data_args],
    }[command]
    code, message = shell(command, *arguments)
    signal.signal(signal.SIGINT, handler)  # Lightning ignores further signals
    assert code == 130
    assert message.splitlines()[-1] == "lightning-kd: interrupted"
    assert "Traceback" not in message
    assert not output.exists()
