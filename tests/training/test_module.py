import copy
import json
import shutil
from functools import partial

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch import nn
from transformers import BertModel

from lightning_kd import DistillationModule
from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, SoftTargetLoss
from lightning_kd.optim.parameter_groups import DEFAULT_OPTIMIZER
from tests.helpers import (
    LABELS,
    STUDENT,
    assert_same_weights,
    best_checkpoint,
    clinc_rows,
    data,
    module,
    save_model,
    tiny_bert,
    trainer,
    version_dir,
)


class Spy(Callback):
    """Records modes, batches and logged values of each step."""

    def __init__(self):
        self.student_modes, self.teacher_modes, self.logged, self.batches = [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)
        self.student_modes += [m.training for m in pl_module.student.modules()]
        if pl_module.teacher is not None:
            self.teacher_modes += [m.training for n in pl_module.teacher.load() for m in n.modules()]
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})


def test_student_trains_in_train_mode_and_teacher_stays_in_eval_mode(tmp_path, clinc_file, teacher_folder):
    spy = Spy()
    pretrained = save_model(tiny_bert(labels=None), tmp_path / "s")
    fitted = module(teacher_folder, student=pretrained)
    trainer(tmp_path, callbacks=[spy], max_epochs=2).fit(fitted, data(clinc_file))
    assert set(spy.student_modes) == {True}
    assert set(spy.teacher_modes) == {False}
    fitted.train()
    assert not any(m.training for m in fitted.teacher.load()[0].modules())


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_fresh_head_is_used_only_after_training(tmp_path, clinc_file, stage):
    source = save_model(tiny_bert(model_class=BertModel), tmp_path / "body")
    run, fitted = trainer(tmp_path), module(student=source)
    with pytest.raises(ValueError, match=r"^student '.*body': the checkpoint has no trained head, 2 weights \(classif"):
        getattr(trainer(tmp_path), stage)(module(student=source), data(clinc_file))
    run.fit(fitted, data(clinc_file))
    getattr(run, stage)(fitted, data(clinc_file))
    run.save_checkpoint(tmp_path / "x.ckpt")
    getattr(trainer(tmp_path), stage)(module(student=source), data(clinc_file), ckpt_path=tmp_path / "x.ckpt")


def test_teacher_without_a_head(tmp_path, clinc_file):
    """It can teach layers, but neither logits nor, with a head drawn at random, a score to compare with."""
    source = save_model(tiny_bert(model_class=BertModel), tmp_path / "body")
    layers = {"hidden": HiddenStateMSELoss()}
    for losses, ignored in ((None, ["weak_teacher"]), (layers, [])):
        settings = {"ignore_checks": ignored, **({} if losses is None else {"losses": losses})}
        with pytest.raises(ValueError, match=r"^teacher '.*body': the checkpoint has no trained head, 2 weights"):
            trainer(tmp_path).fit(module(source, **settings), data(clinc_file))
    trainer(tmp_path).fit(module(source, losses=layers), data(clinc_file))


def test_unlabeled_examples_train_on_soft_targets_only(tmp_path, clinc_file, teacher_folder):
    rows = clinc_rows()
    unlabeled_file = tmp_path / "unlabeled.json"
    unlabeled_file.write_text(json.dumps({**rows, "train": [[text, None] for text, _ in rows["train"]]}))

    def train(path, losses, **settings):
        fitted, spy = module(teacher_folder, losses=losses), Spy()
        trainer(tmp_path, callbacks=[spy]).fit(fitted, data(path, **settings))
        return fitted.student, spy

    soft, _ = train(clinc_file, {"soft": SoftTargetLoss()})
    unlabeled, _ = train(unlabeled_file, {"soft": SoftTargetLoss()}, allow_unlabeled=True)
    assert_same_weights(soft, unlabeled)
    _, spy = train(unlabeled_file, {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}, allow_unlabeled=True)
    # out-of-scope examples have kept their labels
    labeled = [bool((batch["labels"] >= 0).any()) for batch in spy.batches]
    assert set(labeled) == {True, False}
    assert [logged["train/hard"] > 0 for logged in spy.logged] == labeled


def test_teacher_is_bit_identical_after_fit_frozen_and_in_no_checkpoint(tmp_path, clinc_file):
    teacher = tiny_bert(layers=3, seed=5)
    before = copy.deepcopy(teacher)
    run = trainer(tmp_path)
    fitted = module(teacher)
    run.fit(fitted, data(clinc_file))
    run.save_checkpoint(tmp_path / "x.ckpt")
    assert_same_weights(before, teacher)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert all(name.startswith("student.") for name in checkpoint["state_dict"])
    assert len(list(fitted.parameters())) == len(list(fitted.student.parameters()))


def test_a_step_is_the_textbook_step(tmp_path, clinc_file):
    """One optimizer step by the module equals the same step written in plain PyTorch."""
    teacher = tiny_bert(layers=3, seed=1)
    student = tiny_bert(seed=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    reference, spy = copy.deepcopy(student), Spy()
    losses = {"hard": HardLabelLoss(0.25), "soft": SoftTargetLoss(0.75, 3.0)}
    sgd = partial(torch.optim.SGD, lr=0.1)
    fitted = module(teacher, student=student, losses=losses, optimizer=sgd, lr_scheduler=None)
    trainer(tmp_path, callbacks=[spy], max_steps=1).fit(fitted, data(clinc_file))
    batch = {k: v for k, v in spy.batches[0].items() if k not in ("labels", "row_id")}
    labels = torch.tensor([LABELS.index(fitted.label_names[i]) for i in spy.batches[0]["labels"]])
    z_s, z_t = reference.train()(**batch).logits, teacher(**batch).logits.detach()
    ce = nn.functional.cross_entropy(z_s, labels)
    kl = nn.functional.kl_div((z_s / 3).log_softmax(-1), (z_t / 3).softmax(-1), reduction="batchmean")
    (0.25 * ce + 0.75 * 9 * kl).backward()
    for name, parameter in reference.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(dict(student.named_parameters())[name].detach(), expected, rtol=1e-5, atol=1e-6)


def test_loss_without_teacher_raises_in_fit_only(tmp_path, clinc_file):
    lonely = module(losses={"soft": SoftTargetLoss()})
    trainer(tmp_path).validate(lonely, data(clinc_file), verbose=False)
    with pytest.raises(ValueError, match=r"losses\.soft: needs a teacher"):
        trainer(tmp_path).fit(lonely, data(clinc_file))


def test_teacher_that_no_loss_reads_is_not_loaded(tmp_path, clinc_file, teacher_folder):
    idle = module(teacher_folder, losses={"hard": HardLabelLoss()})
    with pytest.warns(UserWarning, match=r"model\.teacher: no loss reads"):
        trainer(tmp_path).fit(idle, data(clinc_file))
    assert not idle.teacher.models[0].is_loaded


def test_teacher_and_student_must_be_two_objects():
    model = tiny_bert()
    with pytest.raises(ValueError, match="teacher: teacher and student are the same object"):
        module(model, student=model)


def test_student_takes_the_labels_of_the_teacher_and_the_batches_follow(tmp_path, clinc_file):
    """The teacher's order differs from the data's; both are aligned by name."""
    order = ["oos", "Leave", "greet"]
    teacher = save_model(tiny_bert(labels=order, seed=1), tmp_path / "t")
    fitted = module(
        teacher,
        student={**STUDENT, "initializer_range": 0.2},
        losses={"hard": HardLabelLoss(), "soft": SoftTargetLoss(0.0)},
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
    )
    run = trainer(tmp_path, max_epochs=30)
    run.fit(fitted, data(clinc_file))
    assert fitted.label_names == order
    assert fitted.student.config.id2label == dict(enumerate(order))
    scores = trainer(tmp_path).validate(fitted, data(clinc_file), verbose=False)[0]
    assert scores["val/accuracy"] > 0.9


def test_fresh_head_of_the_data_without_a_teacher(tmp_path, clinc_file, student_folder):
    fitted = module(student=student_folder)
    trainer(tmp_path, max_steps=1).fit(fitted, data(clinc_file))
    assert fitted.student.config.id2label == {0: "greet", 1: "leave", 2: "oos"}


@pytest.mark.parametrize("how", ["python", "teacher"])
def test_reload_without_teacher_or_hub(tmp_path, clinc_file, teacher_folder, how):
    fitted = module(teacher_folder if how == "teacher" else None, student=save_model(tiny_bert(None), tmp_path / "s"))
    run = trainer(tmp_path, max_epochs=2)
    run.fit(fitted, data(clinc_file))
    run.save_checkpoint(tmp_path / "x.ckpt")
    shutil.rmtree(teacher_folder)
    shutil.rmtree(tmp_path / "s")
    loaded = DistillationModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert_same_weights(fitted, loaded)
    assert loaded.label_names == fitted.label_names
    assert {n: type(x) for n, x in loaded.losses.items()} == {n: type(x) for n, x in fitted.losses.items()}
    first, second = (trainer(tmp_path).test(m, data(clinc_file), verbose=False)[0] for m in (fitted, loaded))
    assert first == second


def test_best_checkpoint_by_name(tmp_path, clinc_file):
    run = trainer(tmp_path, callbacks=[best_checkpoint()], enable_checkpointing=True)
    run.fit(module(), data(clinc_file))
    assert "test/accuracy" in run.test(ckpt_path="best", datamodule=data(clinc_file), verbose=False)[0]


def test_module_given_as_student_must_be_passed_again(tmp_path, clinc_file):
    run = trainer(tmp_path, max_steps=1)
    run.fit(module(student=tiny_bert(seed=4)), data(clinc_file))
    run.save_checkpoint(tmp_path / "x.ckpt")
    message = r"student: .*BertForSequenceClassification .*load_from_checkpoint\(path, student=\.\.\.\)"
    with pytest.raises(ValueError, match=message):
        DistillationModule.load_from_checkpoint(tmp_path / "x.ckpt")
    loaded = DistillationModule.load_from_checkpoint(tmp_path / "x.ckpt", student=tiny_bert(seed=9))
    assert_same_weights(loaded, run.lightning_module)


def test_any_model_and_any_loader(tmp_path):
    """Modules without a transformers configuration, and no DataModule."""
    examples = [{"input": torch.randn(4), "labels": torch.tensor(i % 2)} for i in range(32)]
    loader = torch.utils.data.DataLoader(examples, batch_size=8)
    fitted = module(nn.Linear(4, 2), student=nn.Linear(4, 2), label_names=["a", "b"])
    # no warning: a teacher without a configuration cannot have label names
    trainer(tmp_path).fit(fitted, loader, loader)
    assert "val/accuracy" in fitted.trainer.callback_metrics


def test_labels_never_reach_the_models():
    seen = []

    class Recorder(nn.Module):
        def forward(self, input_ids, labels=None):
            seen.append(labels)
            return torch.zeros(len(input_ids), 3)

    module(student=Recorder(), label_names=LABELS)({"input_ids": torch.ones(2, 5), "labels": torch.tensor([0, 2])})
    assert seen == [None]


def test_schedule_runs_over_all_optimizer_steps(tmp_path, clinc_file):
    fitted = module(warmup_ratio=0.25)
    run = trainer(tmp_path, max_epochs=2, accumulate_grad_batches=2)
    run.fit(fitted, data(clinc_file, batch_size=9))  # 72 examples: 8 batches, 4 steps an epoch
    assert run.global_step == 8
    schedule = run.lr_scheduler_configs[0].scheduler
    expected = [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    assert [schedule.lr_lambdas[0](step) for step in range(9)] == pytest.approx(expected)
    assert schedule.get_last_lr() == pytest.approx([0, 0])


def test_weights_do_not_depend_on_the_rng_around_the_run(tmp_path, clinc_file):
    """Dropout is seeded by the batch's number, so a callback that draws random numbers changes nothing."""

    class Drawer(Callback):
        def on_train_batch_end(self, *_):
            torch.rand(7)

    results = []
    for callbacks in ([], [Drawer()]):
        fitted = module()
        trainer(tmp_path, callbacks=callbacks).fit(fitted, data(clinc_file))
        results.append(fitted)
    assert_same_weights(*results)


def test_run_with_the_default_optimizer_resumes_from_its_config(tmp_path, config, shell):
    settings = yaml.safe_load(config.read_text())
    del settings["model"]["optimizer"]
    config.write_text(yaml.safe_dump(settings))
    assert shell("fit", "--config", config)[0] == 0
    saved = yaml.safe_load((version_dir(tmp_path) / "config.yaml").read_text())["model"]["optimizer"]
    assert saved["class_path"] == "torch.optim.AdamW"
    assert saved["init_args"]["lr"] == DEFAULT_OPTIMIZER.keywords["lr"]
    assert shell("fit", "--resume", version_dir(tmp_path), "--trainer.max_epochs=3")[0] == 0


def test_teacher_cache_is_looked_up_by_the_datamodule_during_the_fit_only(tmp_path, clinc_file, teacher_folder):
    class Lookup(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            assert trainer.datamodule.teacher_cache_lookup is not None

    fitted, datamodule = module(teacher_folder, teacher_cache=str(tmp_path / "cache")), data(clinc_file)
    trainer(tmp_path, callbacks=[Lookup()]).fit(fitted, datamodule)
    assert datamodule.teacher_cache_lookup is None
    assert "on_before_batch_transfer" not in vars(fitted)
