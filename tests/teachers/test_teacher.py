"""The teacher stands outside the module tree: shared by copies, loaded when it is first needed, never trained."""

import copy
import json
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lightning_kd import DistillationModule, LayerInitialization, SequenceClassification
from lightning_kd.teachers.teacher import Teacher
from tests.helpers import LABELS, STUDENT, data, module, save_model, tiny_bert, trainer

BATCH = {
    "input_ids": torch.tensor([[2, 40, 41, 3], [2, 42, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "row_id": torch.tensor([0, 1]),
}


def teacher(source):
    return Teacher(source, SequenceClassification())


def logits(teacher):
    return teacher(BATCH).heads["label"].logits


def model_logits(network):
    with torch.no_grad():
        return network.eval()(BATCH["input_ids"], attention_mask=BATCH["attention_mask"]).logits


def test_copies_of_the_module_share_it(teacher_folder):
    distillation = module(teacher_folder)
    assert copy.deepcopy(distillation).teacher is distillation.teacher
    assert not any("teacher" in name for name, _ in distillation.named_modules())


def test_pickle_carries_neither_weights_nor_networks(teacher_folder):
    first = teacher(teacher_folder)
    first.align_classes(LABELS[::-1], ignore_mismatch=False)
    expected = logits(first)
    pickled = pickle.dumps(first)
    assert len(pickled) < 2000
    second = pickle.loads(pickled)
    assert not second.models[0].is_loaded
    assert torch.equal(logits(second), expected)


def test_networks_are_loaded_once_and_only_when_needed(tmp_path, teacher_folder):
    lazy = teacher([teacher_folder, "no/where"])
    assert lazy.names == [teacher_folder, "no/where"]
    assert lazy.label_names() == LABELS  # needs the configuration only
    assert not any(model.is_loaded for model in lazy.models)
    with pytest.raises(OSError, match="teacher 'no/where' is neither a local folder"):
        lazy.load()
    once = teacher(teacher_folder)
    assert once.load()[0] is once.load()[0]


def test_networks_are_frozen_and_in_eval_mode(teacher_folder):
    given = tiny_bert().train()
    for network in (given, teacher(teacher_folder).load()[0]):
        assert all(not m.training for m in teacher(network).load()[0].modules())
        assert not any(p.requires_grad for p in network.parameters())
    assert not logits(teacher(given)).requires_grad


def test_one_network_answers_as_it_does_alone():
    network = tiny_bert(layers=3, seed=4)
    torch.testing.assert_close(logits(teacher(network)), model_logits(network))


def test_ensemble_of_three_is_the_mean_in_the_students_order():
    orders = [LABELS, ["oos", "greet", "leave"], ["Leave", "OOS", "Greet"]]
    networks = [tiny_bert(labels=order, seed=seed) for seed, order in enumerate(orders)]
    ensemble = teacher(networks)
    ensemble.align_classes(LABELS, ignore_mismatch=False)
    first, second, third = map(model_logits, networks)
    expected = (first + second[:, [1, 2, 0]] + third[:, [2, 0, 1]]) / 3
    torch.testing.assert_close(logits(ensemble), expected)
    assert ensemble.names == ["BertForSequenceClassification"] * 3


def test_ensemble_mean_is_taken_in_float32(tmp_path):
    folders = [save_model(tiny_bert(seed=seed), tmp_path / str(seed)) for seed in range(3)]
    ensemble = teacher(folders)
    ensemble.to(torch.device("cpu"), torch.bfloat16)
    half = [model_logits(network) for network in ensemble.load()]
    assert {x.dtype for x in half} == {torch.bfloat16}
    torch.testing.assert_close(logits(ensemble), sum(x.float() for x in half) / 3)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_moved_with_its_label_order(tmp_path, teacher_folder, device):
    moved = teacher([save_model(tiny_bert(labels=LABELS[::-1]), tmp_path / "other"), teacher_folder])
    moved.align_classes(LABELS, ignore_mismatch=False)
    moved.to(torch.device(device), torch.float16)
    tensors = [*(p for n in moved.load() for p in n.parameters()), moved.models[0].class_permutation]
    assert {t.device.type for t in tensors} == {device}
    assert {t.dtype for t in tensors} == {torch.float16, torch.int64}
    assert moved.models[1].class_permutation is None  # in the student's order already


def test_module_keeps_its_precision():
    moved = teacher(tiny_bert())
    moved.to(torch.device("meta"), torch.float16)
    assert {(p.device.type, p.dtype) for p in moved.load()[0].parameters()} == {("meta", torch.float32)}


def test_rows_that_only_pad_are_left_out():
    padded = {**BATCH, "row_id": torch.tensor([0, -1])}
    assert teacher(tiny_bert())(padded).num_targets == 1


def test_other_labels_in_any_network_are_refused_and_can_be_ignored():
    pair = [tiny_bert(), tiny_bert(labels=["greet", "leave", "other"])]
    with pytest.raises(ValueError, match=r"teacher 'BertForSequence.*only in the second: other.*label_mismatch"):
        teacher(pair).align_classes(LABELS, ignore_mismatch=False)
    ignored = teacher(pair)
    ignored.align_classes(LABELS, ignore_mismatch=True)
    torch.testing.assert_close(logits(ignored), sum(map(model_logits, pair)) / 2)


def test_another_number_of_labels_cannot_be_ignored(tmp_path):
    folder = save_model(tiny_bert(labels=["greet", "leave"]), tmp_path)
    with pytest.raises(ValueError, match=rf"teacher '{folder}' have different label sets \(3 against 2 labels"):
        teacher(folder).align_classes(LABELS, ignore_mismatch=True)


def test_placeholders_for_label_names_are_warned_about_for_each_network():
    nameless = teacher([tiny_bert(), tiny_bert(labels=None, num_labels=3)])
    assert [model.label_names() for model in nameless.models] == [LABELS, None]
    with pytest.warns(UserWarning, match="does not name its labels"):
        nameless.align_classes(LABELS, ignore_mismatch=False)


def test_placeholders_in_another_number_are_refused():
    with pytest.raises(ValueError, match="teacher 'BertForSequenceClassification': has 2 labels, expected 3"):
        teacher(tiny_bert(labels=None, num_labels=2)).align_classes(LABELS, ignore_mismatch=True)


def test_empty_list():
    with pytest.raises(ValueError, match="teacher: the list is empty"):
        teacher([])


INT8_CONFIG = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"version": 2}}},
}
BF16_KWARGS = {"dtype": "bfloat16", "attn_implementation": "eager"}


@pytest.fixture
def run_yaml(tmp_path, clinc_file):
    def write(teacher):
        config = {
            "trainer": {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": str(tmp_path)},
            "model": {
                "task": "SequenceClassification",
                "teacher": teacher,
                "student": STUDENT,
                "losses": {"soft": "SoftTargetLoss"},
                "ignore_checks": ["weak_teacher"],
            },
            "data": {"class_path": "CLINC150DataModule", "init_args": {"path": str(clinc_file)}},
        }
        (tmp_path / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
        return tmp_path / "run.yaml"

    return write


def test_quantized_teacher_from_yaml(tmp_path, teacher_folder, run_yaml, shell):
    pytest.importorskip("torchao")
    teacher = {"pretrained": "overridden", "quantization_config": INT8_CONFIG}
    code, message = shell("fit", "--config", run_yaml(teacher), f"--model.teacher.pretrained={teacher_folder}")
    assert code == 0, message
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["teacher"] == [{"pretrained": teacher_folder, "quantization_config": INT8_CONFIG}]
    loaded = DistillationModule.load_from_checkpoint(checkpoint)
    network = loaded.teacher.load()[0]
    assert type(network.bert.encoder.layer[0].attention.self.query.weight).__name__ == "Int8Tensor"
    loaded.teacher.to(torch.device("cpu"), torch.bfloat16)
    assert network.bert.embeddings.word_embeddings.weight.dtype == torch.float32  # left as it was loaded
    difference = (logits(loaded.teacher) - logits(Teacher(teacher_folder, SequenceClassification()))).abs().max()
    assert 0 < difference < 0.01


def test_ensemble_of_mappings(tmp_path, teacher_folder, run_yaml, shell):
    teacher = [teacher_folder, {"pretrained": teacher_folder, **BF16_KWARGS}]
    code, message = shell("fit", "--config", run_yaml(teacher))
    assert code == 0, message
    loaded = Teacher(
        [teacher_folder, {"pretrained": Path(teacher_folder), "dtype": torch.bfloat16}], SequenceClassification()
    )
    assert loaded.source_config == [teacher_folder, {"pretrained": teacher_folder, "dtype": "bfloat16"}]
    loaded = Teacher(teacher, SequenceClassification())
    loaded.to(torch.device("cpu"), torch.float32)
    assert [network.dtype for network in loaded.load()] == [torch.float32, torch.bfloat16]
    assert loaded.load()[1].config._attn_implementation == "eager"


def test_quantized_teacher_gives_its_layers_as_they_are_on_disk(tmp_path, clinc_file, teacher_folder):
    pytest.importorskip("torchao")
    student = {"config": teacher_folder, "num_hidden_layers": 2}
    still = partial(torch.optim.SGD, lr=0.0)
    fitted = module(
        {"pretrained": teacher_folder, "quantization_config": INT8_CONFIG}, student=student, optimizer=still
    )
    trainer(tmp_path, callbacks=[LayerInitialization()], max_steps=1).fit(fitted, data(clinc_file))
    own = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    ours = fitted.student.bert.encoder.layer[1].state_dict()
    assert all(torch.equal(w, ours[n]) for n, w in own.bert.encoder.layer[3].state_dict().items())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"dtype": "bfloat16"}, "teacher: a mapping needs the key 'pretrained'.*got .'dtype'.*"),
        (
            {"pretrained": tiny_bert(), "dtype": "bfloat16"},
            "teacher.pretrained: must be a hub id or folder, got Bert",
        ),
        (
            {"pretrained": "x", "device_map": torch.device("cpu")},
            "teacher.device_map: device cannot be saved",
        ),
    ],
)
def test_invalid_mapping(source, message):
    with pytest.raises(ValueError, match=message):
        Teacher(source, SequenceClassification())


def test_misspelt_argument_is_named(teacher_folder):
    with pytest.raises(ValueError, match=r"teacher\.quantisation_config"):
        Teacher({"pretrained": teacher_folder, "quantisation_config": {}}, SequenceClassification()).load()
