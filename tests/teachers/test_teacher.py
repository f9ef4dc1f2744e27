"""The teacher is outside the module tree: shared by copies, loaded on first use, never trained."""

import copy
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from lightning_kd import DistillationModule, LayerInitialization, SequenceClassification
from lightning_kd.teachers import Teacher
from tests.helpers import IGNORE_CHECKS, LABELS, data, module, save_model, tiny_bert, trainer, version_dir

BATCH = {
    "input_ids": torch.tensor([[2, 40, 41, 3], [2, 42, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "row_id": torch.tensor([0, 1]),
}
CPU = torch.device("cpu")


def make_teacher(source):
    return Teacher(source, SequenceClassification())


def teacher_logits(teacher):
    return teacher(BATCH).heads["label"].logits


@torch.no_grad()
def model_logits(model):
    return model.eval()(BATCH["input_ids"], attention_mask=BATCH["attention_mask"]).logits


# ---- loading


def test_copies_of_the_module_share_the_teacher(teacher_folder):
    distillation = module(teacher_folder)
    assert copy.deepcopy(distillation).teacher is distillation.teacher
    assert not any("teacher" in name for name, _ in distillation.named_modules())


def test_pickle_without_weights(teacher_folder):
    teacher = make_teacher(teacher_folder)
    teacher.align_classes(LABELS[::-1], ignore_mismatch=False)
    expected = teacher_logits(teacher)
    pickled = pickle.dumps(teacher)
    assert len(pickled) < 2000
    unpickled = pickle.loads(pickled)
    assert not unpickled.models[0].is_loaded
    assert torch.equal(teacher_logits(unpickled), expected)


def test_models_are_loaded_once_and_on_first_use(teacher_folder):
    teacher = make_teacher([teacher_folder, "no/where"])
    assert teacher.names == [teacher_folder, "no/where"]
    assert teacher.label_names() == LABELS
    assert not any(model.is_loaded for model in teacher.models)
    with pytest.raises(OSError, match="teacher 'no/where'"):
        teacher.load()
    teacher = make_teacher(teacher_folder)
    assert teacher.load()[0] is teacher.load()[0]


def test_models_are_frozen_and_in_eval_mode(teacher_folder):
    for source in (tiny_bert().train(), teacher_folder):
        teacher = make_teacher(source)
        (model,) = teacher.load()
        assert not any(part.training for part in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        logits = teacher_logits(teacher)
        assert not logits.requires_grad
        torch.testing.assert_close(logits, model_logits(model))


def test_models_from_folders_take_device_and_dtype_and_modules_the_device(tmp_path, teacher_folder):
    other = save_model(tiny_bert(labels=LABELS[::-1]), tmp_path / "other")
    teacher = make_teacher([other, teacher_folder, tiny_bert()])
    teacher.align_classes(LABELS, ignore_mismatch=False)
    teacher.to(torch.device("meta"), torch.float16)
    found = [{(p.device.type, p.dtype) for p in model.parameters()} for model in teacher.load()]
    assert found == [{("meta", torch.float16)}, {("meta", torch.float16)}, {("meta", torch.float32)}]
    assert teacher.models[0].class_permutation.device.type == "meta"
    assert teacher.models[1].class_permutation is None


def test_ensemble_mean_in_float32(tmp_path):
    ensemble = make_teacher([save_model(tiny_bert(seed=seed), tmp_path / str(seed)) for seed in range(3)])
    ensemble.to(CPU, torch.bfloat16)
    logits = [model_logits(model) for model in ensemble.load()]
    assert {z.dtype for z in logits} == {torch.bfloat16}
    torch.testing.assert_close(teacher_logits(ensemble), sum(z.float() for z in logits) / 3)


# ---- labels


def test_different_labels():
    models = [tiny_bert(), tiny_bert(labels=["greet", "leave", "other"])]
    with pytest.raises(ValueError, match=r"teacher 'BertForSequence.*other.*label_mismatch"):
        make_teacher(models).align_classes(LABELS, ignore_mismatch=False)
    ignored = make_teacher(models)
    ignored.align_classes(LABELS, ignore_mismatch=True)
    torch.testing.assert_close(teacher_logits(ignored), sum(map(model_logits, models)) / 2)


def test_different_number_of_labels(tmp_path):
    folder = save_model(tiny_bert(labels=["greet", "leave"]), tmp_path)
    with pytest.raises(ValueError, match=rf"teacher '{folder}' .*3 .* 2 labels"):
        make_teacher(folder).align_classes(LABELS, ignore_mismatch=True)
    unnamed = make_teacher(tiny_bert(labels=None, num_labels=2))
    for check in (partial(unnamed.align_classes, LABELS, ignore_mismatch=True), partial(unnamed.check_num_labels, 3)):
        with pytest.raises(ValueError, match=r"teacher 'BertForSequenceClassification': .*2 labels.* 3"):
            check()


def test_placeholder_label_names():
    teacher = make_teacher([tiny_bert(), tiny_bert(labels=None, num_labels=3)])
    assert [model.label_names() for model in teacher.models] == [LABELS, None]
    with pytest.warns(UserWarning, match="teacher 'BertForSequenceClassification' does not name its labels"):
        teacher.align_classes(LABELS, ignore_mismatch=False)


# ---- options of from_pretrained


INT8_CONFIG = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"version": 2}}},
}


@pytest.fixture
def fit_config(tmp_path, config, shell):
    """Function that trains from a YAML file with a teacher, and returns the checkpoint."""

    def run(teacher, *arguments):
        model = {"teacher": teacher, "losses": {"soft": "SoftTargetLoss"}, "ignore_checks": IGNORE_CHECKS}
        (tmp_path / "teacher.yaml").write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
        code, message = shell("fit", "--config", config, "--config", tmp_path / "teacher.yaml", *arguments)
        assert code == 0, message
        return version_dir(tmp_path) / "checkpoints" / "last.ckpt"

    return run


def test_quantized_teacher(teacher_folder, fit_config):
    pytest.importorskip("torchao")
    teacher = {"pretrained": "overridden", "quantization_config": INT8_CONFIG}
    checkpoint = fit_config(teacher, f"--model.teacher.pretrained={teacher_folder}")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["teacher"] == [{"pretrained": teacher_folder, "quantization_config": INT8_CONFIG}]
    loaded = DistillationModule.load_from_checkpoint(checkpoint).teacher
    (model,) = loaded.load()
    assert type(model.bert.encoder.layer[0].attention.self.query.weight).__name__ == "Int8Tensor"
    loaded.to(CPU, torch.bfloat16)
    assert model.bert.embeddings.word_embeddings.weight.dtype == torch.float32  # not cast
    difference = (teacher_logits(loaded) - teacher_logits(make_teacher(teacher_folder))).abs().max()
    assert 0 < difference < 0.01


def test_layers_of_a_quantized_teacher_are_copied_from_disk(tmp_path, clinc_file, teacher_folder):
    pytest.importorskip("torchao")
    fitted = module(
        {"pretrained": teacher_folder, "quantization_config": INT8_CONFIG},
        student={"config": teacher_folder, "num_hidden_layers": 2},
        optimizer=partial(torch.optim.SGD, lr=0.0),
    )
    trainer(tmp_path, callbacks=[LayerInitialization()], max_steps=1).fit(fitted, data(clinc_file))
    expected = AutoModelForSequenceClassification.from_pretrained(teacher_folder).bert.encoder.layer[3].state_dict()
    copied = fitted.student.bert.encoder.layer[1].state_dict()
    assert all(torch.equal(weight, copied[name]) for name, weight in expected.items())


@pytest.mark.parametrize("wrap", [list, lambda models: {"ensemble": models, "combine": "confidence"}])
def test_ensemble_with_options(teacher_folder, fit_config, wrap):
    source = wrap([teacher_folder, {"pretrained": teacher_folder, "dtype": "bfloat16", "attn_implementation": "eager"}])
    teacher = DistillationModule.load_from_checkpoint(fit_config(source)).teacher
    assert teacher.source_config == source
    teacher.to(CPU, torch.float32)
    assert [model.dtype for model in teacher.load()] == [torch.float32, torch.bfloat16]
    assert teacher.load()[1].config._attn_implementation == "eager"
    from_python = make_teacher([teacher_folder, {"pretrained": Path(teacher_folder), "dtype": torch.bfloat16}])
    assert from_python.source_config == [teacher_folder, {"pretrained": teacher_folder, "dtype": "bfloat16"}]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"dtype": "bfloat16"}, r"teacher: .*'pretrained'.*\['dtype'\]"),
        ({"pretrained": tiny_bert(), "dtype": "bfloat16"}, r"teacher\.pretrained: .*BertForSequenceClassification"),
        ({"pretrained": "x", "device_map": CPU}, r"teacher\.device_map: device"),
        ({"pretrained": "x", "combine": "logits"}, r"teacher\.combine: "),
        ({"ensemble": ["x"], "combine": "votes"}, r"teacher\.combine: .*'votes'"),
        ({"ensemble": ["x"], "mean": "logits"}, r"teacher\.mean: "),
        ({"ensemble": "x"}, r"teacher\.ensemble: .*str"),
        ({"ensemble": []}, r"teacher: .*empty"),
        ([], r"teacher: .*empty"),
    ],
)
def test_invalid_source(source, message):
    with pytest.raises(ValueError, match=message):
        make_teacher(source)


def test_unknown_option(teacher_folder):
    with pytest.raises(ValueError, match=r"teacher\.quantisation_config"):
        make_teacher({"pretrained": teacher_folder, "quantisation_config": {}}).load()
