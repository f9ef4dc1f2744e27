"""Projections: trained by the module's optimizer and schedule, saved by the callback, and checked on resume."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adagrad, AdamW, lr_scheduler
from transformers.optimization import Adafactor

from lightning_kd.callbacks.distillation.call_recorder import iter_tensors
from lightning_kd.losses import HiddenStateCosineLoss, HiddenStateMSELoss, SoftTargetLoss
from tests.callbacks.distillation.helpers import (
    CLASSES,
    FEATURES,
    HIDDEN,
    SOFT_AND_HIDDEN,
    Classifier,
    callback,
    equal_tensors,
    fit,
    loader,
    make_examples,
    mlp,
    teacher,
    weights,
)
from tests.helpers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

STEPS = 6  # three epochs of two


def with_schedule(build_schedule):
    """Return an optimizer with two groups and a schedule that has one entry for each."""

    def build(module):
        body, head = ({"params": module.net[i].parameters(), "lr": lr} for i, lr in ((0, 0.01), (2, 0.1)))
        optimizer = SGD([body, head])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": build_schedule(optimizer), "interval": "step"}}

    return build


BUILDS = {
    "plain": lambda module: SGD(module.parameters(), lr=0.1, momentum=0.9),
    "list": lambda module: [AdamW(module.parameters(), lr=0.01)],
    "two lists": lambda module: ([AdamW(module.parameters(), lr=0.01)], []),
    "lambdas": with_schedule(lambda opt: lr_scheduler.LambdaLR(opt, [lambda step: step / 10, lambda step: step / 5])),
    "one cycle": with_schedule(lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=[0.01, 0.1], total_steps=STEPS + 1)),
    "fused": lambda module: AdamW(module.parameters(), lr=0.01, fused=True),
    "state from the constructor": lambda module: Adagrad(module.parameters(), lr=0.1, initial_accumulator_value=0.1),
    "computed learning rate": lambda module: Adafactor(module.parameters(), lr=None),
}


class RecordProjection(Callback):
    """Records the projection, its learning rate and the learning rates of all groups at each step."""

    def __init__(self, distillation):
        self.distillation, self.rates, self.weights = distillation, [], []

    @property
    def projection(self):
        (projection,) = self.distillation._terms.parameters()
        return projection

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        groups = [g for g in optimizer.param_groups if any(p is self.projection for p in g["params"])]
        assert len(groups) == 1
        assert self.projection.grad.abs().sum() > 0
        self.rates.append((groups[0]["lr"], [group["lr"] for group in optimizer.param_groups]))
        self.weights.append(self.projection.detach().clone())


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_projection_is_trained_from_the_first_step_at_the_highest_learning_rate(tmp_path, build):
    distillation = callback(**SOFT_AND_HIDDEN)
    record = RecordProjection(distillation)
    fit(Classifier(build_optimizer=build), tmp_path, distillation, callbacks=[record], max_epochs=3)
    assert len(record.rates) == STEPS
    assert all(rate == max(rates) for rate, rates in record.rates)
    steps = zip(record.weights, [*record.weights[1:], record.projection], strict=True)
    for (before, after), (rate, _) in zip(steps, record.rates, strict=True):
        assert torch.equal(before, after) == (rate == 0)


def test_step_of_the_projection_follows_its_gradient(tmp_path):
    distillation = callback(**SOFT_AND_HIDDEN)
    record, module = RecordProjection(distillation), Classifier()
    before = weights(module)
    fit(module, tmp_path, distillation, loader(number=8), callbacks=[record])
    inputs = next(iter(loader()))[0]
    projection = record.weights[0].clone().requires_grad_()
    states = nn.functional.linear(inputs, before["net.0.weight"], before["net.0.bias"])
    with torch.no_grad():
        targets = teacher()[0](inputs)
    (states @ projection.T - targets).square().mean().mul(0.5).backward()
    torch.testing.assert_close(record.projection.detach(), record.weights[0] - 0.1 * projection.grad)


def test_gradients_of_the_projection_are_clipped_with_the_others(tmp_path):
    class CheckNorm(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def on_train_batch_end(self, *_):
            assert len(self.parameters) == 5
            assert torch.cat([p.grad.flatten() for p in self.parameters]).norm() == pytest.approx(1e-3, rel=1e-3)

    fit(Classifier(), tmp_path, callback(**SOFT_AND_HIDDEN), callbacks=[CheckNorm()], gradient_clip_val=1e-3)


def test_missing_optimizer(tmp_path):
    class WithoutOptimizer(Classifier):
        def configure_optimizers(self):
            return None

    with pytest.warns(UserWarning, match="no optimizer"), pytest.raises(ValueError, match=r"losses: .*no optimizer"):
        fit(WithoutOptimizer(), tmp_path, callback(**HIDDEN))


def test_sharded_optimizer(tmp_path):
    class ShardedSGD(SGD):
        def consolidate_state_dict(self):
            pass

    def build(module):
        return ShardedSGD(module.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="losses: ShardedSGD shards"):
        fit(Classifier(build_optimizer=build), tmp_path, callback(**HIDDEN))
    fit(Classifier(build_optimizer=build), tmp_path, callback())


def checkpoints(folder, *callbacks):
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_last=True)
    return {"callbacks": [*callbacks, keep], "enable_checkpointing": True}


@pytest.mark.parametrize("build", [*BUILDS.values(), None], ids=[*BUILDS, "averaged weights"])
def test_resumed_run_is_bit_identical(tmp_path, build):
    def run(folder, **settings):
        module, distillation = Classifier(build_optimizer=build), callback(**SOFT_AND_HIDDEN)
        average = [] if build else [EMAWeightAveraging(decay=0.5, use_buffers=False)]
        fit(module, folder, distillation, **checkpoints(folder, *average), **settings)
        return weights(module), distillation.state_dict()["losses"]["hidden"][0]

    whole = run(tmp_path / "whole", max_epochs=3)
    resumed = run(tmp_path / "resumed", max_epochs=3, ckpt_path=tmp_path / "whole" / "epoch=0.ckpt")
    assert equal_tensors(whole[0], resumed[0])
    assert equal_tensors(whole[1], resumed[1])
    assert not equal_tensors(whole[1], run(tmp_path / "short", max_epochs=1)[1])


class WithTest(Classifier):
    def test_step(self, batch):
        self.log("test_loss", cross_entropy(self.net(batch[0]), batch[1]))


def test_checkpoint_holds_the_projection_in_the_callback_state_and_no_teacher(tmp_path):
    module = WithTest()
    run = fit(module, tmp_path, callback(**SOFT_AND_HIDDEN), **checkpoints(tmp_path))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == WithTest().state_dict().keys() == module.state_dict().keys()
    (state,) = [value for key, value in checkpoint["callbacks"].items() if "Distillation" in key]
    assert [{name: tuple(t.shape) for name, t in copy.items()} for copy in state["losses"]["hidden"]] == [
        {"projection.weight": (32, 8)}
    ]
    shapes = [t.shape for t in iter_tensors(checkpoint) if t.ndim]  # SGD has no state
    assert shapes == [*(t.shape for t in module.parameters()), (32, 8)]
    run.test(WithTest(), loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)

    assert equal_tensors(weights(module), weights(WithTest.load_from_checkpoint(tmp_path / "last.ckpt")))
    alone = trainer(tmp_path)
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        alone.test(WithTest(), loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    inputs, labels = make_examples()
    expected = cross_entropy(module.net(inputs), labels).item()
    assert float(alone.callback_metrics["test_loss"]) == pytest.approx(expected)


def test_each_pair_of_layers_has_its_own_projection(tmp_path):
    distillation = callback(**{**HIDDEN, "layers": {"0": "0", "2": "2"}})
    fit(Classifier(), tmp_path, distillation)
    first, second = distillation.state_dict()["losses"]["hidden"]
    assert first["projection.weight"].shape == (32, 8)
    assert second == {}  # both have three classes


def test_second_fit_starts_with_a_fresh_projection(tmp_path):
    distillation = callback(**SOFT_AND_HIDDEN)
    record, module = RecordProjection(distillation), Classifier()
    fit(module, tmp_path, distillation, callbacks=[record])
    fit(module, tmp_path, distillation, callbacks=[record])
    assert torch.equal(record.weights[0], record.weights[2])


def deep(width, seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    return nn.Sequential(*layers)


def deep_classifier():
    return Classifier(net=deep(8), build_optimizer=lambda module: AdamW(module.parameters(), lr=0.01))


def compare_layers(names=("a",), layers=("0",), width=32, **others):
    losses = {name: HiddenStateMSELoss(0.5) for name in names} | others
    return callback(teacher=deep(width, 9), losses=losses, layers={layer: layer for layer in layers})


SOFT = {"soft": SoftTargetLoss()}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (compare_layers("ab"), compare_layers("ba"), "a: HiddenStateMSELoss; b: .* has b: HiddenStateMSELoss; a"),
        (compare_layers(), compare_layers(layers="2"), r"0 \(width 8\) with 0 \(width 32\), .* has .* 2 .* with 2"),
        (compare_layers(layers="02"), compare_layers(layers="20"), r"has a: HiddenStateMSELoss; 2 .*; 0 "),
        (compare_layers(), compare_layers(width=16), r"with 0 \(width 32\), .* with 0 \(width 16\)"),
        (
            compare_layers(width=8),
            compare_layers((), a=HiddenStateCosineLoss(), width=8),
            "has a: HiddenStateCosineLoss",
        ),
        (compare_layers(**SOFT), callback(teacher=deep(32, 9), losses=SOFT), "has soft: SoftTargetLoss;"),
        (callback(teacher=deep(32, 9), losses=SOFT), compare_layers(**SOFT), "with soft: SoftTargetLoss, "),
        (None, compare_layers(), "have projections, .*without them"),
    ],
)
def test_resuming_with_other_losses_layers_or_widths(tmp_path, before, after, message):
    fit(deep_classifier(), tmp_path, before).save_checkpoint(tmp_path / "first.ckpt")
    with pytest.raises(ValueError, match=f"DistillationCallback.losses: .*{message}") as info:
        fit(deep_classifier(), tmp_path, after, ckpt_path=tmp_path / "first.ckpt", max_epochs=2)
    assert "\n" not in str(info.value)


def test_losses_without_parameters_can_resume_a_run_without_the_callback(tmp_path):
    fit(Classifier(), tmp_path).save_checkpoint(tmp_path / "first.ckpt")
    run = fit(Classifier(), tmp_path, callback(teacher=mlp(16)), ckpt_path=tmp_path / "first.ckpt", max_epochs=2)
    assert run.global_step == 4
    assert "distillation/soft" in run.logged_metrics
