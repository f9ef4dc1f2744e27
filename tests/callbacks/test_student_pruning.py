"""A pruned student has the same zeros from the first step to the export, also when resumed."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from transformers import AlbertConfig, AutoModelForSequenceClassification

from lightning_kd.callbacks import QuantizationAwareTraining, StudentExport, StudentPruning
from tests.helpers import LABELS, assert_resumable, data, fit_and_resume, module, trainer


def linear_weights(model):
    return {n: w for n, w in model.named_parameters() if "encoder.layer" in n and n.endswith("weight") and w.ndim == 2}


def share_of_zeros(weights):
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def callbacks():
    return [StudentPruning(0.5), StudentExport()]


def test_exported_student_is_pruned_and_trained(tmp_path, clinc_file, teacher_folder):
    before = linear_weights(module(teacher_folder).build_student())
    make_module, make_data = partial(module, teacher_folder), partial(data, clinc_file)
    fit_and_resume(tmp_path, make_module, make_data, make_callbacks=callbacks, max_epochs=3)
    after = linear_weights(AutoModelForSequenceClassification.from_pretrained(tmp_path / "student"))
    assert share_of_zeros(after.values()) == pytest.approx(0.5, abs=0.001)
    # the smallest over all layers
    limit = torch.cat([w.abs().flatten() for w in before.values()]).median()
    for name, weight in after.items():
        kept = before[name].abs() > limit
        assert torch.equal(weight != 0, kept), name
        assert not torch.allclose(weight[kept], before[name][kept])


def test_resumed_runs_end_in_the_same_weights(tmp_path, clinc_file, teacher_folder):
    make_module, make_data = partial(module, teacher_folder), partial(data, clinc_file)
    assert_resumable(tmp_path, make_module, make_data, [4], [9], [14], make_callbacks=callbacks, max_epochs=3)
    saved = torch.load(tmp_path / "14" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any("_mask" in name or "_orig" in name for name in saved)


@pytest.mark.parametrize("amount", [0, 1, -0.1, float("nan")])
def test_amount_out_of_range(amount):
    with pytest.raises(ValueError, match=r"StudentPruning\.amount: must be in \(0, 1\)"):
        StudentPruning(amount)


def test_student_without_a_list_of_layers(tmp_path, clinc_file):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    albert = AlbertConfig(**sizes, vocab_size=1200, embedding_size=16, id2label=dict(enumerate(LABELS)))
    student = AutoModelForSequenceClassification.from_config(albert)
    with pytest.raises(ValueError, match="AlbertForSequenceClassification has no list of layers"):
        trainer(tmp_path, callbacks=[StudentPruning(0.5)]).fit(module(student=student), data(clinc_file))


@pytest.mark.parametrize("pruning_first", [False, True])
def test_together_with_quantization(tmp_path, clinc_file, teacher_folder, pruning_first):
    callbacks = [QuantizationAwareTraining(), StudentPruning(0.5)]
    callbacks = callbacks[::-1] if pruning_first else callbacks
    run = trainer(tmp_path, callbacks=[*callbacks, StudentExport()], max_steps=2)
    run.fit(module(teacher_folder), data(clinc_file))
    after = linear_weights(AutoModelForSequenceClassification.from_pretrained(tmp_path / "student"))
    assert share_of_zeros(after.values()) == pytest.approx(0.5, abs=0.001)


def test_weight_averaging_raises(tmp_path, clinc_file):
    run = trainer(tmp_path, callbacks=[StudentPruning(0.5), EMAWeightAveraging(use_buffers=False)])
    with pytest.raises(ValueError, match="StudentPruning: incompatible with weight averaging"):
        run.fit(module(), data(clinc_file))
