"""The export folder: written completely or not at all, never over foreign files."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from lightning_kd.callbacks import LayerInitialization, ONNXExport, StudentExport
from tests.helpers import data, module, save_model, tiny_bert, trainer

FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def export(root, clinc_file, folder=None, **settings):
    run = trainer(root, callbacks=[StudentExport(folder)], max_steps=1)
    fitted = module(**{"student": tiny_bert(seed=1), **settings})
    run.fit(fitted, data(clinc_file))
    return fitted


def names(folder):
    return {file.name for file in folder.iterdir()}


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def head(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder).classifier.weight


@pytest.mark.parametrize("exists", [False, True])
def test_new_or_empty_folder_with_a_space_in_its_name(tmp_path, clinc_file, exists):
    target = tmp_path / "models of mine" / "the student"
    if exists:
        target.mkdir(parents=True)
    export(tmp_path, clinc_file, str(target))
    assert names(target) == FILES
    assert names(target.parent) == {"the student"}


PATHS = {"student": "x/student", "./student/": "x/student", "../y/student": "y/student", "~/student": "home/student"}


@pytest.mark.parametrize(("path", "folder"), PATHS.items())
def test_relative_path(tmp_path, clinc_file, monkeypatch, path, folder):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    export(tmp_path, clinc_file, path)
    assert names(tmp_path / folder) == FILES


@pytest.mark.parametrize("relative", [".", ".."])
def test_working_directory_raises_before_training(tmp_path, clinc_file, monkeypatch, relative):
    """It would be renamed under the user's shell."""
    here = tmp_path / "x" / "y"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(ValueError, match=r"export\.output_dir: '.*x.*' .*choose another"):
        export(tmp_path, clinc_file, relative)
    assert Path.cwd() == here


def test_second_export_replaces_the_first(tmp_path, clinc_file):
    target = tmp_path / "out" / "student"
    export(tmp_path, clinc_file, str(target))
    (target / "pytorch_model.bin").touch()  # from an earlier version: must not be kept
    second = export(tmp_path, clinc_file, str(target), student=tiny_bert(seed=5))
    assert torch.equal(head(target), second.student.classifier.weight)
    assert names(target) == FILES
    assert names(target.parent) == {"student"}


def test_link_to_an_earlier_export_stays_a_link(tmp_path, clinc_file):
    export(tmp_path, clinc_file, str(tmp_path / "disk" / "student"))
    link = tmp_path / "out" / "link"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "disk" / "student")
    second = export(tmp_path, clinc_file, str(link), student=tiny_bert(seed=5))
    assert link.is_symlink()
    assert torch.equal(head(tmp_path / "disk" / "student"), second.student.classifier.weight)
    assert names(link.parent) == {"link"}


FOREIGN = {
    "a file": {"notes.txt": "mine"},
    "another model": {"README.md": "---\nlibrary_name: transformers\n---\n# A model"},
    "a project that uses this one": {"README.md": "# Mine\nTrained with lightning_kd.", "thesis.tex": "mine"},
    "a card without header": {"README.md": "lightning_kd"},
    "a card whose header is a list": {"README.md": "---\n- lightning_kd\n---\n"},
    "a card with a broken header": {"README.md": "---\ntags: [lightning_kd\n---\n"},
    "binary file": {"README.md": b"\xff\xfe lightning_kd"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_folder_raises_before_training(tmp_path, clinc_file, kind):
    target = tmp_path / "theirs"
    target.mkdir()
    for name, content in {"config.json": "{}", **FOREIGN[kind]}.items():
        (target / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = contents(target)
    run = trainer(tmp_path, callbacks=[StudentExport(str(target))])
    with pytest.raises(ValueError, match=r"export\.output_dir: '.*theirs' exists and is not an earlier export"):
        run.fit(module(), data(clinc_file))
    assert run.global_step == 0
    assert contents(target) == before


def test_existing_file_raises(tmp_path, clinc_file):
    with pytest.raises(ValueError, match=r"export\.output_dir"):
        export(tmp_path, clinc_file, str(clinc_file))


def test_other_stages_do_not_check(tmp_path, clinc_file):
    before = clinc_file.read_bytes()
    callback = StudentExport(str(clinc_file))
    trainer(tmp_path, callbacks=[callback]).validate(module(student=tiny_bert()), data(clinc_file), verbose=False)
    assert clinc_file.read_bytes() == before


class FullDisk(BertForSequenceClassification):
    def save_pretrained(self, folder, **settings):
        super().save_pretrained(folder, **settings)
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("earlier", [False, True])
def test_failing_export_leaves_no_files(tmp_path, clinc_file, earlier):
    target = tmp_path / "out" / "student"
    target.parent.mkdir()
    if earlier:
        export(tmp_path, clinc_file, str(target))
    before = contents(target.parent)
    with pytest.raises(OSError, match="No space left"):
        export(tmp_path, clinc_file, str(target), student=FullDisk(tiny_bert().config))
    assert contents(target.parent) == before
    assert names(target.parent) == ({"student"} if earlier else set())


OVERLAPS = [("teacher", folder) for folder in ("start", "start/inside", ".")]
OVERLAPS += [(source, "start") for source in ("student", "config", "layers")]


@pytest.mark.parametrize(("source", "folder"), OVERLAPS)
def test_folder_that_the_run_reads_raises_before_training(tmp_path, clinc_file, source, folder):
    start = save_model(tiny_bert(), tmp_path / "models" / "start")
    student = {"student": start, "config": {"config": start, "num_hidden_layers": 1}}.get(source, tiny_bert(layers=1))
    callbacks = [StudentExport(str(tmp_path / "models" / folder))]
    if source == "layers":
        callbacks.append(LayerInitialization(source=start))
    fitted = module(start if source == "teacher" else None, student=student)
    with pytest.raises(ValueError, match=r"export\.output_dir: '.*models.*' overlaps with '.*start'"):
        trainer(tmp_path, callbacks=callbacks).fit(fitted, data(clinc_file))


@pytest.mark.parametrize("other", ["out", "out/onnx"])
def test_two_exports_in_one_folder_raise(tmp_path, clinc_file, other):
    callbacks = [StudentExport(str(tmp_path / "out")), ONNXExport(str(tmp_path / other), int8=False)]
    with pytest.raises(ValueError, match=r"output_dir: '.*out.*' overlaps with '.*out.*'"):
        trainer(tmp_path, callbacks=callbacks).fit(module(), data(clinc_file))
