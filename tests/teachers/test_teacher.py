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
from tests.conftest import LABELS, save_network, tiny_bert
from tests.runs import STUDENT, data, module, trainer

BATCH = {
    "input_ids": torch.tensor([[2, 40, 41, 3], [2, 42, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "row_id": torch.tensor([0, 1]),
}


def teacher(source):
    return Teacher(source, SequenceClassification())


def logits(teacher):
    return teacher(BATCH).heads["label"].logits


def own_logits(network):
    with torch.no_grad():
        return network.eval()(BATCH["input_ids"], attention_mask=BATCH["attention_mask"]).logits


def test_copies_of_the_module_share_it(teacher_folder):
    student_side = module(teacher_folder)
    assert copy.deepcopy(student_side).teacher is student_side.teacher
    assert not any("teacher" in name for name, _ in student_side.named_modules())


def test_pickle_carries_neither_weights_nor_networks(teacher_folder):
    first = teacher(teacher_folder)
    first.align(LABELS[::-1], accept_mismatch=False)
    expected = logits(first)
    pickled = pickle.dumps(first)
    assert len(pickled) < 2000
    second = pickle.loads(pickled)
    assert not second.members[0].loaded
    assert torch.equal(logits(second), expected)


def test_networks_are_loaded_once_and_only_when_needed(tmp_path, teacher_folder):
    lazy = teacher([teacher_folder, "no/where"])
    assert lazy.names == [teacher_folder, "no/where"]
    assert lazy.label_names() == LABELS  # needs the configuration only
    assert not any(member.loaded for member in lazy.members)
    with pytest.raises(OSError, match="teacher 'no/where' is neither a folder"):
        _ = lazy.networks
    once = teacher(teacher_folder)
    assert once.networks[0] is once.networks[0]


def test_networks_are_frozen_and_in_eval_mode(teacher_folder):
    given = tiny_bert().train()
    for network in (given, teacher(teacher_folder).networks[0]):
        assert all(not m.training for m in teacher(network).networks[0].modules())
        assert not any(p.requires_grad for p in network.parameters())
    assert not logits(teacher(given)).requires_grad


def test_one_network_answers_as_it_does_alone():
    network = tiny_bert(layers=3, seed=4)
    torch.testing.assert_close(logits(teacher(network)), own_logits(network))


def test_ensemble_of_three_is_the_mean_in_the_students_order():
    orders = [LABELS, ["oos", "greet", "leave"], ["Leave", "OOS", "Greet"]]
    networks = [tiny_bert(labels=order, seed=seed) for seed, order in enumerate(orders)]
    ensemble = teacher(networks)
    ensemble.align(LABELS, accept_mismatch=False)
    first, second, third = map(own_logits, networks)
    expected = (first + second[:, [1, 2, 0]] + third[:, [2, 0, 1]]) / 3
    torch.testing.assert_close(logits(ensemble), expected)
    assert ensemble.names == ["BertForSequenceClassification"] * 3


def test_ensemble_mean_is_taken_in_float32(tmp_path):
    folders = [save_network(tiny_bert(seed=seed), tmp_path / str(seed)) for seed in range(3)]
    ensemble = teacher(folders)
    ensemble.to(torch.device("cpu"), torch.bfloat16)
    half = [own_logits(network) for network in ensemble.networks]
    assert {x.dtype for x in half} == {torch.bfloat16}
    torch.testing.assert_close(logits(ensemble), sum(x.float() for x in half) / 3)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_moved_with_its_label_order(tmp_path, teacher_folder, device):
    moved = teacher([save_network(tiny_bert(labels=LABELS[::-1]), tmp_path / "other"), teacher_folder])
    moved.align(LABELS, accept_mismatch=False)
    moved.to(torch.device(device), torch.float16)
    tensors = [*(p for n in moved.networks for p in n.parameters()), moved.members[0].columns]
    assert {t.device.type for t in tensors} == {device}
    assert {t.dtype for t in tensors} == {torch.float16, torch.int64}
    assert moved.members[1].columns is None  # in the student's order already


def test_module_keeps_its_precision():
    moved = teacher(tiny_bert())
    moved.to(torch.device("meta"), torch.float16)
    assert {(p.device.type, p.dtype) for p in moved.networks[0].parameters()} == {("meta", torch.float32)}


def test_rows_that_only_pad_are_left_out():
    padded = {**BATCH, "row_id": torch.tensor([0, -1])}
    assert teacher(tiny_bert())(padded).rows == 1


def test_other_labels_in_any_network_are_refused_and_can_be_accepted():
    pair = [tiny_bert(), tiny_bert(labels=["greet", "leave", "other"])]
    with pytest.raises(ValueError, match=r"teacher 'BertForSequence.*only in the second: other.*label_mismatch"):
        teacher(pair).align(LABELS, accept_mismatch=False)
    accepted = teacher(pair)
    accepted.align(LABELS, accept_mismatch=True)
    torch.testing.assert_close(logits(accepted), sum(map(own_logits, pair)) / 2)


def test_another_number_of_labels_cannot_be_accepted(tmp_path):
    folder = save_network(tiny_bert(labels=["greet", "leave"]), tmp_path)
    with pytest.raises(ValueError, match=rf"teacher '{folder}' have different label sets \(3 against 2 labels"):
        teacher(folder).align(LABELS, accept_mismatch=True)


def test_placeholders_for_label_names_are_warned_about_for_each_network():
    nameless = teacher([tiny_bert(), tiny_bert(labels=None, num_labels=3)])
    assert [member.label_names() for member in nameless.members] == [LABELS, None]
    with pytest.warns(UserWarning, match="does not name its labels; they are taken to be in the student's order"):
        nameless.align(LABELS, accept_mismatch=False)


def test_placeholders_in_another_number_are_refused():
    with pytest.raises(
        ValueError, match="teacher 'BertForSequenceClassification': has a head of 2 labels, 3 are needed"
    ):
        teacher(tiny_bert(labels=None, num_labels=2)).align(LABELS, accept_mismatch=True)


def test_empty_list():
    with pytest.raises(ValueError, match="teacher: the list is empty"):
        teacher([])


INT8 = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"version": 2}}},
}
IN_BF16 = {"dtype": "bfloat16", "attn_implementation": "eager"}


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
                "accept": ["weak_teacher"],
            },
            "data": {"class_path": "CLINC150DataModule", "init_args": {"path": str(clinc_file)}},
        }
        (tmp_path / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
        return tmp_path / "run.yaml"

    return write


def test_quantised_teacher_from_yaml(tmp_path, teacher_folder, run_yaml, shell):
    pytest.importorskip("torchao")
    teacher = {"source": "overridden", "quantization_config": INT8}
    code, message = shell("fit", "--config", run_yaml(teacher), f"--model.teacher.source={teacher_folder}")
    assert code == 0, message
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["teacher"] == [{"source": teacher_folder, "quantization_config": INT8}]
    loaded = DistillationModule.load_from_checkpoint(checkpoint)
    network = loaded.teacher.networks[0]
    assert type(network.bert.encoder.layer[0].attention.self.query.weight).__name__ == "Int8Tensor"
    loaded.teacher.to(torch.device("cpu"), torch.bfloat16)
    assert network.bert.embeddings.word_embeddings.weight.dtype == torch.float32  # left as it was loaded
    difference = (logits(loaded.teacher) - logits(Teacher(teacher_folder, SequenceClassification()))).abs().max()
    assert 0 < difference < 0.01


def test_ensemble_of_mappings(tmp_path, teacher_folder, run_yaml, shell):
    teacher = [teacher_folder, {"source": teacher_folder, **IN_BF16}]
    code, message = shell("fit", "--config", run_yaml(teacher))
    assert code == 0, message
    loaded = Teacher(
        [teacher_folder, {"source": Path(teacher_folder), "dtype": torch.bfloat16}], SequenceClassification()
    )
    assert loaded.plain_source == [teacher_folder, {"source": teacher_folder, "dtype": "bfloat16"}]
    loaded = Teacher(teacher, SequenceClassification())
    loaded.to(torch.device("cpu"), torch.float32)
    assert [network.dtype for network in loaded.networks] == [torch.float32, torch.bfloat16]
    assert loaded.networks[1].config._attn_implementation == "eager"


def test_quantised_teacher_gives_its_layers_as_they_are_on_disk(tmp_path, clinc_file, teacher_folder):
    pytest.importorskip("torchao")
    student = {"base": teacher_folder, "num_hidden_layers": 2}
    still = partial(torch.optim.SGD, lr=0.0)
    fitted = module({"source": teacher_folder, "quantization_config": INT8}, student=student, optimizer=still)
    trainer(tmp_path, callbacks=[LayerInitialization()], max_steps=1).fit(fitted, data(clinc_file))
    own = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    ours = fitted.student.bert.encoder.layer[1].state_dict()
    assert all(torch.equal(w, ours[n]) for n, w in own.bert.encoder.layer[3].state_dict().items())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"dtype": "bfloat16"}, "teacher: a mapping needs the key 'source'.*got .'dtype'.*"),
        ({"source": tiny_bert(), "dtype": "bfloat16"}, "teacher.source: must be a hub id or folder, got Bert.*alone"),
        ({"source": "x", "device_map": torch.device("cpu")}, "teacher.device_map: device is no plain data.*as text"),
    ],
)
def test_mapping_that_makes_no_teacher(source, message):
    with pytest.raises(ValueError, match=message):
        Teacher(source, SequenceClassification())


def test_misspelt_argument_is_named(teacher_folder):
    with pytest.raises(OSError, match="quantisation_config"):
        _ = Teacher({"source": teacher_folder, "quantisation_config": {}}, SequenceClassification()).networks
