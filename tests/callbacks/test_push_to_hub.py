"""Uploads with the real client to a fake Hub."""

import os
import shlex
import shutil
import subprocess
import sys
import traceback
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_kd import CompressionReport, PushToHub
from lightning_kd.callbacks import StudentExport
from lightning_kd.callbacks.export_base import Export
from lightning_kd.cli.main import main
from tests.helpers import best_checkpoint, data, module, trainer, version_dir
from tests.hub import TOKEN, FakeHub, Repository

FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


class TwoFolderExport(Export):
    """Writes two folders, as ONNXExport does, but quickly."""

    dirname, config_key, description = "graph", "graph", "Graph"

    def variant_dirs(self, target):
        return [target, target.with_name("graph-int8")]

    def write(self, target, student):
        for folder in self.variant_dirs(target):
            super().write(folder, student)

    def write_files(self, folder, student):
        student.save_config_and_tokenizer(folder)
        student.save_card(folder)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # the client waits up to half a minute before it gives up
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    yield hub
    huggingface_hub.close_session()
    hub.stop()


@pytest.fixture
def run(tmp_path, clinc_file):
    """Fit for a step."""

    def fit(*callbacks, student=None, **settings):
        short = {"limit_train_batches": 1, "limit_val_batches": 1, **settings}
        run = trainer(tmp_path / "my run", callbacks=[*callbacks], **short)
        run.fit(module(**({} if student is None else {"student": student})), data(clinc_file))

    return fit


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_student_is_the_root_of_a_private_repository_and_each_run_a_commit(tmp_path, hub, run):
    for _ in range(2):
        run(PushToHub("me/small"), StudentExport())
    repository = hub.repositories["me/small"]
    assert repository.private
    assert repository.files == files(tmp_path / "my run" / "student")
    assert repository.files.keys() == FILES
    assert b"lightning_kd" in repository.files["README.md"]
    assert len(repository.commits) == 2


def test_other_exports_are_folders_of_it_whatever_the_order(tmp_path, hub, run):
    best = best_checkpoint()
    callbacks = [TwoFolderExport(), PushToHub("me/small"), StudentExport(str(tmp_path / "elsewhere")), best]
    run(*callbacks, enable_checkpointing=True)
    repository = hub.repositories["me/small"]
    assert {name for name in repository.files if "/" not in name} == FILES
    for name in ("graph", "graph-int8"):
        own = {f"{name}/{file}": content for file, content in files(tmp_path / "my run" / name).items()}
        assert own
        assert own.items() <= repository.files.items()
    student = f"student with val/accuracy {best.best_model_score:.4f}"
    commits = [f"Upload {student}", f"Upload graph of {student}", f"Upload graph-int8 of {student}"]
    assert repository.commits == commits


def test_name_without_owner_is_the_token_owners_and_public_where_asked_for(hub, run):
    run(PushToHub("small", private=False), StudentExport())
    assert not hub.repositories["me/small"].private
    assert hub.repositories["me/small"].files.keys() == FILES


def test_report_is_in_the_uploaded_card(hub, run):
    run(CompressionReport(), PushToHub("me/small"), StudentExport())
    assert b"## Compression report" in hub.repositories["me/small"].files["README.md"]


def test_repository_is_made_and_the_token_tried_before_training(hub, run):
    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            assert hub.requests == [
                "POST /api/repos/create",
                "GET /api/models/me/small",
                "GET /api/models/me/small/auth-check/write",
            ]

    run(PushToHub("me/small"), StudentExport(), Watch())
    assert hub.requests[-1] == "POST /api/models/me/small/commit/main"


def test_only_the_first_process_uploads(hub, run, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    run(PushToHub("me/small"), StudentExport())
    assert not hub.requests


def test_search_for_a_learning_rate_uploads_nothing(tmp_path, hub, clinc_file):
    (tmp_path / "student").mkdir()  # of an earlier run
    search = trainer(tmp_path, callbacks=[PushToHub("me/small"), StudentExport()], max_epochs=50)
    fitted = module()
    fitted.lr = 0.01
    Tuner(search).lr_find(fitted, datamodule=data(clinc_file), num_training=5)
    assert not any("/commit/" in request for request in hub.requests)


# before training


@pytest.fixture
def assert_rejected(tmp_path, hub, run):
    def check(match, *callbacks, **settings):
        with pytest.raises(ValueError, match=match) as caught:
            run(PushToHub("me/small"), *callbacks, **settings)
        assert "\n" not in str(caught.value)
        assert TOKEN not in str(caught.value)
        assert not (tmp_path / "my run" / "student").exists()

    return check


def test_malformed_id():
    with pytest.raises(ValueError, match=r"PushToHub\.repo_id: .*'a/b/c'"):
        PushToHub("a/b/c")


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([TwoFolderExport()], r"no student is exported.*add StudentExport\(\)"),
        ([StudentExport(), CompressionReport()], "PushToHub: comes before CompressionReport"),
        ([StudentExport(), TwoFolderExport(), TwoFolderExport("elsewhere/graph")], "have the same name"),
    ],
)
def test_callbacks_that_do_not_fit(hub, assert_rejected, callbacks, message):
    assert_rejected(message, *callbacks)
    assert not hub.requests


def test_student_that_is_not_exported(hub, assert_rejected):
    assert_rejected("not a transformers model", StudentExport(), student=nn.EmbeddingBag(1200, 3))
    assert not hub.requests


def test_offline(assert_rejected, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_rejected("HF_HUB_OFFLINE is set", StudentExport())


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "no token found; set HF_TOKEN, or run `hf auth login`"),
        ("hf_Wrong", r"the Hub rejects 'me/small' \(.*401"),
    ],
)
def test_missing_or_wrong_token(hub, assert_rejected, monkeypatch, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    assert_rejected(message, StudentExport())
    assert bool(hub.requests) == bool(token)


def test_token_that_may_only_read(hub, assert_rejected):
    hub.repositories["me/small"] = Repository(private=True)
    hub.error_statuses = {"POST /api/repos/create": 403, "auth-check/write": 403}
    assert_rejected(r"the Hub rejects 'me/small' \(.*403", StudentExport())


def test_token_for_one_repository_only(hub, run):
    hub.repositories["me/small"] = Repository(private=True)
    hub.error_statuses = {"POST /api/repos/create": 403}
    run(PushToHub("me/small"), StudentExport())
    assert hub.repositories["me/small"].files.keys() == FILES


def test_public_repository_stays_public_and_unchanged(hub, assert_rejected):
    hub.repositories["me/small"] = Repository(private=False)
    assert_rejected("'me/small' exists and is public; set private: f", StudentExport())
    assert not hub.repositories["me/small"].private
    assert not hub.repositories["me/small"].files


def test_private_repository_stays_private(hub, run, caplog):
    hub.repositories["me/small"] = Repository(private=True)
    with caplog.at_level("INFO"):
        run(PushToHub("me/small", private=False), StudentExport())
    assert hub.repositories["me/small"].private
    assert "me/small (private)" in caplog.text


def test_fast_dev_run_leaves_the_hub_alone(hub, run):
    run(PushToHub("me/small"), StudentExport(), fast_dev_run=2)
    assert not hub.requests


def test_other_stages_leave_the_hub_alone(tmp_path, hub, clinc_file):
    trainer(tmp_path, callbacks=[PushToHub("me/small")]).validate(module(), data(clinc_file), verbose=False)
    assert not hub.requests


# failures


def assert_upload_fails(run, match, *callbacks, **settings):
    """Assert that fit ends with a one-line OSError; return the commands in its message."""
    with pytest.raises(OSError, match=match) as caught:
        run(*callbacks, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert TOKEN not in message
    commands = message.partition("try again with: ")[2]
    return [shlex.split(command) for command in commands.split(" && ")]


def retry_command(folder, place="."):
    return ["hf", "upload", "me/small", str(folder), place, "--private"]


@pytest.mark.parametrize("status", [401, 403, 503])
def test_upload_that_is_answered_with_an_error(tmp_path, hub, run, status):
    hub.error_statuses = {"/commit/main": status}
    commands = assert_upload_fails(run, rf"'me/small' failed \(.*{status}", PushToHub("me/small"), StudentExport())
    folder = tmp_path / "my run" / "student"
    assert commands == [retry_command(folder)]
    assert {file.name for file in folder.iterdir()} == FILES


def test_retry_command_excludes_uploaded_folders(tmp_path, hub, run):
    class Broken(TwoFolderExport):
        """Deletes a folder before it is uploaded."""

        def write(self, target, student):
            super().write(target, student)
            shutil.rmtree(target)

    commands = assert_upload_fails(run, "is not a directory", PushToHub("me/small"), StudentExport(), Broken())
    assert commands == [retry_command(tmp_path / "my run" / name, name) for name in ("graph", "graph-int8")]
    assert hub.repositories["me/small"].files.keys() == FILES


def test_retry_command_completes_the_upload(hub, run):
    hub.error_statuses = {"/commit/main": 403}
    commands = assert_upload_fails(run, "403", PushToHub("me/small"), StudentExport(), TwoFolderExport())
    hub.error_statuses = {}
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    for _, *arguments in commands:
        command = [sys.executable, "-m", "huggingface_hub.cli.hf", *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    repository = hub.repositories["me/small"]
    assert repository.private
    own = {f"{name}/{file}" for name in ("graph", "graph-int8") for file in FILES - {"model.safetensors"}}
    assert repository.files.keys() == FILES | own


def test_hub_that_cannot_be_reached_before_training_warns(tmp_path, hub, run):
    hub.stop()
    with pytest.warns(UserWarning, match="cannot reach the Hub"):
        commands = assert_upload_fails(run, "failed", PushToHub("me/small"), StudentExport())
    assert commands == [retry_command(tmp_path / "my run" / "student")]


def test_repository_that_turned_public_is_not_written_to(hub, run):
    class Publish(StudentExport):
        def write_files(self, folder, student):
            super().write_files(folder, student)
            hub.repositories["me/small"].private = False

    ((*_, repo_id, _, _, _),) = assert_upload_fails(run, "is public", PushToHub("me/small"), Publish())
    assert repo_id == "<another repo_id>"
    assert not hub.repositories["me/small"].files


def test_failing_upload_loses_nothing_else(tmp_path, hub, clinc_file):
    hub.error_statuses = {"/commit/main": 403}
    logger = TensorBoardLogger(str(tmp_path), name="", version="events")
    best = best_checkpoint(dirpath=tmp_path / "checkpoints")
    callbacks = [CompressionReport(), PushToHub("me/small"), StudentExport(), best]
    run = trainer(tmp_path, callbacks=callbacks, logger=logger, enable_checkpointing=True)
    fitted = module()
    with pytest.raises(OSError, match="hf upload"):
        run.fit(fitted, data(clinc_file))
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert "compression" in events.Tags()["images"]  # written last, in teardown
    assert torch.load(best.best_model_path, weights_only=True)["global_step"] == run.global_step
    assert (tmp_path / "events" / "student" / "model.safetensors").is_file()
    assert (tmp_path / "events" / "report.md").is_file()
    assert run.test(fitted, data(clinc_file), verbose=False)


# from the shell


@pytest.fixture
def fit_from_shell(config, monkeypatch):
    callback = ["--trainer.callbacks+=PushToHub", "--trainer.callbacks.repo_id=me/small"]
    monkeypatch.setattr(sys, "argv", ["lightning-kd", "fit", "--config", str(config), *callback])
    return main


def assert_no_token(tmp_path, *printed):
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"config.yaml", "README.md", "best.ckpt", "last.ckpt"} <= {file.name for file in written}
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]
    assert not [text for text in printed if TOKEN in text]


def test_token_is_in_no_file_and_no_line(tmp_path, hub, fit_from_shell, capfd, caplog):
    with caplog.at_level("DEBUG"):
        fit_from_shell()
    assert hub.repositories["me/small"].files.keys() == FILES
    assert_no_token(tmp_path, *capfd.readouterr(), caplog.text)


def test_token_is_in_no_error_and_the_exit_status_tells(tmp_path, hub, fit_from_shell, capfd, caplog):
    hub.error_statuses = {"/commit/main": 403}
    with caplog.at_level("DEBUG"), pytest.raises(SystemExit) as stop:
        fit_from_shell()
    folder, message = version_dir(tmp_path) / "student", stop.value.code
    assert message.startswith("lightning-kd: error: PushToHub: upload to 'me/small' failed (403")
    assert "rejected Bearer <token>" in message
    assert shlex.join(retry_command(folder)) in message
    assert {file.name for file in folder.iterdir()} == FILES
    assert_no_token(tmp_path, message, *capfd.readouterr(), caplog.text)


def test_token_is_in_no_traceback(hub, fit_from_shell, monkeypatch):
    monkeypatch.setenv("LIGHTNING_KD_DEBUG", "1")
    hub.error_statuses = {"/commit/main": 403}
    with pytest.raises(OSError, match="403") as caught:
        fit_from_shell()
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
