"""Uploads the exports of a run to the Hugging Face Hub."""

import shlex
from pathlib import Path

import transformers
from huggingface_hub import HfApi, ModelInfo, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, but not in __all__
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_kd.callbacks.base import DistillationModuleCallback, find_callbacks, is_fast_dev_run
from lightning_kd.callbacks.compression_report import CompressionReport
from lightning_kd.callbacks.export_base import Export
from lightning_kd.callbacks.student_export import StudentExport
from lightning_kd.export.student import best_scores
from lightning_kd.training.module import DistillationModule

PERMANENT_ERROR_CODES = (400, 401, 402, 403, 404)
"""HTTP status codes of errors that a retry does not fix."""


class PushToHub(DistillationModuleCallback):
    """Uploads all exports to the Hugging Face Hub at the end of ``fit``.

    The student and its model card become the root of the repository, every other export (ONNX) a folder in it. The
    token comes from ``HF_TOKEN`` or ``hf auth login``; it is not an argument, so no config contains it.

    Before training, the repository is created and the token is checked, so that a long run does not fail at its end. If
    the Hub is unreachable at that point, a warning is issued. If the upload fails, the local folders are kept, and the
    error contains the command to retry it.

    Args:
        repo_id: ``namespace/model``, or ``model`` for the namespace of the token's owner.
        private: If True, a new repository is private, and an existing one must not be public. An existing repository
            keeps its visibility.

    Raises:
        ValueError: If ``repo_id`` is invalid; before training, if nothing is exported, there is no token, or the Hub
            rejects it.
        OSError: At the end of ``fit``, after all files are written, if the upload fails.
    """

    def __init__(self, repo_id: str, private: bool = True) -> None:
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ValueError(f"PushToHub.repo_id: {' '.join(str(error).split())}") from None
        self.repo_id = repo_id
        self.private = private
        self._pending_uploads: dict[str, Path] = {}

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check the other callbacks.

        Raises:
            ValueError: If no student is exported, a report would be written after the upload, or two exports have the
                same folder name.
        """
        self._pending_uploads = {}  # of an earlier fit
        if not find_callbacks(trainer, StudentExport):
            raise ValueError("PushToHub: no student is exported; add StudentExport() to trainer.callbacks")
        callbacks = find_callbacks(trainer, Callback)
        if any(isinstance(callback, CompressionReport) for callback in callbacks[callbacks.index(self) :]):
            raise ValueError(
                "PushToHub: comes before CompressionReport, so the report would not be uploaded; put PushToHub after "
                "CompressionReport in trainer.callbacks"
            )
        _collect_uploads(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the repository and check the token before training.

        Raises:
            ValueError: If nothing could be uploaded.
        """
        if is_fast_dev_run(trainer):
            return
        if not isinstance(self.distillation_module(pl_module).student, transformers.PreTrainedModel):
            raise ValueError(
                "PushToHub: the student is not a transformers model, so it is not exported; remove PushToHub"
            )
        # rank 0 asks, all ranks raise
        problem = trainer.strategy.broadcast(self._find_problem() if trainer.is_global_zero else None)
        if problem is not None:
            raise ValueError(f"PushToHub: {problem}")

    def _find_problem(self) -> str | None:
        """Return why the upload would fail, as far as is known before training; None if no reason is known."""
        if is_offline_mode():
            return "HF_HUB_OFFLINE is set; unset it, or remove PushToHub"
        if get_token() is None:
            return "no token found; set HF_TOKEN, or run `hf auth login`"
        try:
            self._ensure_repo()
        except PermissionError as error:
            return str(error)
        except Exception as error:  # connection errors, and any error caused by a proxy's response
            if isinstance(error, HfHubHTTPError) and error.response.status_code in PERMANENT_ERROR_CODES:
                return (
                    f"the Hub rejects {self.repo_id!r} ({_redact_token(error)}); check the name, and that the token "
                    "of HF_TOKEN or `hf auth login` has write access"
                )
            rank_zero_warn(
                f"PushToHub: cannot reach the Hub ({_redact_token(error)}); training continues, and the upload is "
                "attempted at the end"
            )
        return None

    def _ensure_repo(self) -> ModelInfo:
        """Create the repository if it does not exist, and return its information.

        Raises:
            PermissionError: If it is public but ``private`` is True.
            HfHubHTTPError: If the token has no write access, or the Hub fails.
        """
        api = HfApi()
        repo_id = api.create_repo(self.repo_id, private=self.private, exist_ok=True).repo_id
        info = api.model_info(repo_id)
        if self.private and not info.private:
            raise PermissionError(
                f"{repo_id!r} exists and is public; set private: false to upload there, or choose another repo_id"
            )
        # with exist_ok, create_repo accepts a read-only token for an existing repository
        api.auth_check(repo_id, write=True)
        return info

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the folders to upload; ``teardown`` is also called after a learning rate finder, without exports."""
        if not is_fast_dev_run(trainer):
            self._pending_uploads = _collect_uploads(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Upload, after the exports of ``on_fit_end`` and the report of ``teardown``.

        Raises:
            OSError: If the upload fails; the message contains the command to retry it.
        """
        pending, self._pending_uploads = self._pending_uploads, {}
        if stage != "fit" or not trainer.is_global_zero or not any(folder.is_dir() for folder in pending.values()):
            return  # without a step, nothing may have been exported
        try:
            info = self._ensure_repo()
            student = _describe_student(trainer, self.distillation_module(pl_module))
            for path_in_repo, folder in list(pending.items()):
                message = f"Upload {student}" if path_in_repo == "." else f"Upload {path_in_repo} of {student}"
                HfApi().upload_folder(
                    repo_id=info.id, folder_path=folder, path_in_repo=path_in_repo, commit_message=message
                )
                del pending[path_in_repo]
        except Exception as error:
            # not "from error": its text may contain the token
            raise OSError(self._retry_message(error, pending)) from None
        rank_zero_info(f"Uploaded to {HfApi().endpoint}/{info.id} ({'private' if info.private else 'public'})")

    def _retry_message(self, error: Exception, folders: dict[str, Path]) -> str:
        # do not suggest the public repository: hf upload would write to it
        repo_id = "<another repo_id>" if isinstance(error, PermissionError) else self.repo_id
        options = ["--private"] if self.private else []
        commands = [
            shlex.join(["hf", "upload", repo_id, str(f), path_in_repo, *options]) for path_in_repo, f in folders.items()
        ]
        return (
            f"PushToHub: upload to {self.repo_id!r} failed ({_redact_token(error)}); the local files are complete, try "
            f"again with: {' && '.join(commands)}"
        )


def _collect_uploads(trainer: Trainer) -> dict[str, Path]:
    """Return the folder for each path in the repository, the student's first; call it on every rank."""
    exports = sorted(find_callbacks(trainer, Export), key=lambda export: not isinstance(export, StudentExport))
    folders = [folder.absolute() for export in exports for folder in export.output_dirs(trainer)]
    uploads = {"." if folder == folders[0] else folder.name: folder for folder in folders}
    if len(uploads) < len(folders):
        names = ", ".join(str(folder) for folder in folders[1:])
        raise ValueError(f"PushToHub: two of {names} have the same name; choose another folder for one of them")
    return uploads


def _describe_student(trainer: Trainer, pl_module: DistillationModule) -> str:
    key = f"val/{pl_module.task.monitor}"
    score = best_scores(trainer, pl_module).get(key)
    return "student" if score is None else f"student with {key} {score:.4f}"


def _redact_token(error: Exception) -> str:
    """Return an error's message in one line, without the token that an HTTP error may repeat."""
    text = str(error) or type(error).__name__
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the client hides the reason of file errors
        text += f" {error.__cause__}"
    text = " ".join(text.split())
    if token := get_token():
        text = text.replace(token, "<token>")
    return f"{text:.300}"
