"""Puts on the hub what a run exported."""

import shlex
from pathlib import Path

import transformers
from huggingface_hub import HfApi, ModelInfo, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, but not in __all__
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_kd.callbacks.compression_report import CompressionReport
from lightning_kd.callbacks.export import best_scores, export_callbacks
from lightning_kd.callbacks.student_export import StudentExport
from lightning_kd.training.module import DistillationModule

PERMANENT_ERROR_CODES = (400, 401, 402, 403, 404)
"""What the hub answers where asking again later would not help."""


class PushToHub(Callback):
    """At the end of ``fit`` uploads what was exported to the Hugging Face hub.

    The student with its model card becomes the root of the repository, any other export (ONNX) a folder in it. The
    token is that of ``HF_TOKEN`` or of ``hf auth login``; it is no argument, so it is in no config and no checkpoint.

    Before training the repository is made and the token tried, so that a long run does not end in a refusal; a hub
    that cannot be reached then is only warned about. If the upload fails, the folders stay, and the error says how to
    try again.

    Args:
        repo_id: ``name/model``, or ``model`` in the name of the token's owner.
        private: Whether a new repository is private. One that exists stays as it is: a public one is refused where
            this is true.

    Raises:
        ValueError: If ``repo_id`` is no hub id; before training, if nothing would be exported, there is no token, or
            the hub refuses it.
        OSError: At the end of ``fit``, when all files are written, if the upload fails.
    """

    def __init__(self, repo_id: str, private: bool = True) -> None:
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ValueError(f"PushToHub.repo_id: {' '.join(str(error).split())}") from None
        self.repo_id = repo_id
        self.private = private
        self._pending_uploads: dict[str, Path] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the other callbacks.

        Raises:
            ValueError: If no student is exported, a report comes too late to be uploaded, or two exports would share
                a folder.
        """
        if stage != "fit":
            return
        self._pending_uploads = {}  # of an earlier fit
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, StudentExport) for callback in callbacks):
            raise ValueError("PushToHub: no student is exported that it could upload; add StudentExport()")
        if any(isinstance(callback, CompressionReport) for callback in callbacks[callbacks.index(self) :]):
            raise ValueError(
                "PushToHub: CompressionReport comes after it and would be missing on the hub; "
                "put PushToHub behind CompressionReport in trainer.callbacks"
            )
        _collect_uploads(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the repository and try the token, before training.

        Raises:
            ValueError: If nothing could be uploaded.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not isinstance(pl_module, DistillationModule) or not isinstance(
            pl_module.student, transformers.PreTrainedModel
        ):
            raise ValueError(
                "PushToHub: the student is no transformers model, so it is not exported and cannot be uploaded; "
                "leave PushToHub out"
            )
        # one process asks, all of them stop
        problem = trainer.strategy.broadcast(self._find_problem() if trainer.is_global_zero else None)
        if problem is not None:
            raise ValueError(f"PushToHub: {problem}")

    def _find_problem(self) -> str | None:
        """Why the upload is going to fail, as far as can be known before training."""
        if is_offline_mode():
            return "HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or leave PushToHub out"
        if get_token() is None:
            return "there is no token; set HF_TOKEN, or run `hf auth login`"
        try:
            self._ensure_repo()
        except PermissionError as error:
            return str(error)
        except Exception as error:  # of the connection, or what a proxy's answer makes the client raise
            if isinstance(error, HfHubHTTPError) and error.response.status_code in PERMANENT_ERROR_CODES:
                return (
                    f"the hub refuses {self.repo_id!r} ({_redact_token(error)}); check the name, and that the token "
                    "of HF_TOKEN or `hf auth login` may write there"
                )
            rank_zero_warn(
                f"PushToHub: the hub cannot be reached ({_redact_token(error)}); the run goes on, and the upload is "
                "tried at its end"
            )
        return None

    def _ensure_repo(self) -> ModelInfo:
        """The repository, made if it is not there.

        Raises:
            PermissionError: If it is public and should not be.
            HfHubHTTPError: If the token may not write there, or the hub is in trouble.
        """
        api = HfApi()
        repo_id = api.create_repo(self.repo_id, private=self.private, exist_ok=True).repo_id
        info = api.model_info(repo_id)
        if self.private and not info.private:
            raise PermissionError(
                f"{repo_id!r} is on the hub already and is public; set private: false to upload there, or choose "
                "another repo_id"
            )
        # create_repo is content with a token that may only read what is there
        api.auth_check(repo_id, write=True)
        return info

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what there is to upload: ``teardown`` also follows a learning rate finder, which exports nothing."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._pending_uploads = _collect_uploads(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Upload; in ``teardown``, because exporters work in ``on_fit_end``, and CompressionReport after them.

        Raises:
            OSError: If that fails; the message says how to try again.
        """
        pending, self._pending_uploads = self._pending_uploads, {}
        if stage != "fit" or not pending or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, DistillationModule)
        try:
            info = self._ensure_repo()
            student = _describe_student(trainer, pl_module)
            for path_in_repo, folder in list(pending.items()):
                message = f"Upload {student}" if path_in_repo == "." else f"Upload {path_in_repo} of {student}"
                HfApi().upload_folder(
                    repo_id=info.id, folder_path=folder, path_in_repo=path_in_repo, commit_message=message
                )
                del pending[path_in_repo]
        except Exception as error:  # of the connection, the hub, a file
            # not "from error": its text may hold the token
            raise OSError(self._retry_message(error, pending)) from None
        rank_zero_info(f"Uploaded to {HfApi().endpoint}/{info.id} ({'private' if info.private else 'public'})")

    def _retry_message(self, error: Exception, folders: dict[str, Path]) -> str:
        # hf upload would not mind that the repository is public
        repo_id = "<another repo_id>" if isinstance(error, PermissionError) else self.repo_id
        options = ["--private"] if self.private else []
        commands = [
            shlex.join(["hf", "upload", repo_id, str(f), path_in_repo, *options]) for path_in_repo, f in folders.items()
        ]
        return (
            f"PushToHub: the upload to {self.repo_id!r} failed ({_redact_token(error)}); nothing is lost here, try "
            f"again with: {' && '.join(commands)}"
        )


def _collect_uploads(trainer: Trainer) -> dict[str, Path]:
    """Which folder goes where in the repository, the student's first. On every device: log_dir is a broadcast."""
    student_first = sorted(export_callbacks(trainer), key=lambda exporter: not isinstance(exporter, StudentExport))
    folders = [folder.absolute() for exporter in student_first for folder in exporter.output_dirs(trainer)]
    exports = {"." if folder == folders[0] else folder.name: folder for folder in folders}
    if len(exports) < len(folders):
        names = ", ".join(str(folder) for folder in folders[1:])
        raise ValueError(f"PushToHub: two of {names} have the same name; choose another folder for one of them")
    return exports


def _describe_student(trainer: Trainer, pl_module: DistillationModule) -> str:
    key = f"val/{pl_module.task.monitor}"
    score = best_scores(trainer, pl_module).get(key)
    return "student" if score is None else f"student with {key} {score:.4f}"


def _redact_token(error: Exception) -> str:
    """What went wrong in one line; an answer may repeat the request with its token."""
    text = str(error) or type(error).__name__
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the client's, for a file, without the reason
        text += f" {error.__cause__}"
    text = " ".join(text.split())
    if token := get_token():
        text = text.replace(token, "<token>")
    return f"{text:.300}"
