"""What of the user's folder is packed."""

import tarfile

from lightning_kd.cli.sagemaker.source import pack

KEPT = [
    *("my_losses.py", "credentials.py", "labels.csv", "secrets/__init__.py"),
    *("net/config.json", "net/model.safetensors"),
]
LEFT_OUT = [
    *(".env", ".git/HEAD", ".netrc", "aws_credentials.json", "id_rsa", "prod.env", "server.PEM"),
    *("cache/values.bin", "checkpoints/last.ckpt/.metadata", "lightning_logs/version_0/student/config.json"),
    *("env/pyvenv.cfg", "net/__pycache__/x.pyc", "node_modules/x.js"),
]


def test_hidden_files_credentials_and_what_programs_write_are_left_out(tmp_path):
    source, config, archive = tmp_path / "source", tmp_path / "run.yaml", tmp_path / "sourcedir.tar.gz"
    config.touch()
    for name in (*KEPT, *LEFT_OUT):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x" * 50_000)
    summary = pack(archive, config, source)
    with tarfile.open(archive) as packed:
        names = {member.name for member in packed.getmembers() if member.isfile()}
    assert {name for name in (*KEPT, *LEFT_OUT) if name in names} == set(KEPT)
    assert "lightning_kd/data/quickstart/data_oos_plus.json" in names
    assert summary == (
        "source: 6 files of 0.3 MB packed, 13 left out: .env, .git, .netrc, aws_credentials.json, cache, "
        "checkpoints/last.ckpt, env, id_rsa, lightning_logs, net/__pycache__, and 3 more"
    )
