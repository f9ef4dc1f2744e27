"""Unsupported modules, strategies, losses and layers raise before training and leave the module unchanged."""

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from torch import nn

from lightning_kd.losses import (
    ConsistencyLoss,
    HardLabelLoss,
    HiddenStateCosineLoss,
    HiddenStateMSELoss,
    SelfAttentionRelationLoss,
    SoftTargetLoss,
)
from tests.callbacks.distillation.helpers import HIDDEN, Classifier, callback, equal_tensors, fit, mlp, teacher, weights
from tests.helpers import module as distillation_module


def assert_raises(tmp_path, message, module=None, **settings):
    module = module or Classifier()
    before = weights(module)
    with pytest.raises(ValueError, match=message) as info:
        fit(module, tmp_path, callback(**settings))
    assert "\n" not in str(info.value)
    assert equal_tensors(before, weights(module))
    assert "training_step" not in module.__dict__
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_manual_optimization(tmp_path):
    class Manual(Classifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    assert_raises(tmp_path, "DistillationCallback: Manual .*manual optimization", Manual())


def test_distillation_module():
    with pytest.raises(ValueError, match=r"DistillationModule .*model\.teacher"):
        callback().setup(None, distillation_module(), "fit")


def test_compiled_module(tmp_path):
    with pytest.raises(ValueError, match=r"compiled LightningModule .*module\.net\.compile\(\)"):
        fit(torch.compile(Classifier(), backend="eager"), tmp_path, callback())


@pytest.mark.parametrize("strategy", [ModelParallelStrategy, DeepSpeedStrategy])
def test_sharded_strategies(strategy):
    run = type("Run", (), {"strategy": object.__new__(strategy), "callbacks": []})
    with pytest.raises(ValueError, match=f"DistillationCallback: {strategy.__name__} shards"):
        callback().setup(run, Classifier(), "fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": "nett"}, r"student: Classifier has no submodule 'nett'; .* net$"),
        ({"teacher": nn.Linear(6, 5)}, r"\(8, 3\).*\(8, 5\)"),
        ({**HIDDEN, "teacher": [teacher(), teacher()]}, "layers: .*ensemble"),
        ({**HIDDEN, "layers": {"7": "0"}}, "layers: the student, Sequential, has no submodule '7'; .* 0, 1, 2"),
        ({**HIDDEN, "layers": {"0": "1"}}, "layers: .*width of '1' in the teacher is unknown"),
        ({**HIDDEN, "losses": {"angle": HiddenStateCosineLoss()}}, r"8.*32"),
    ],
)
def test_student_teacher_or_layers_that_do_not_fit(tmp_path, settings, message):
    assert_raises(tmp_path, message, **settings)


@pytest.mark.parametrize(
    "wrap", [lambda net: net, nn.Sequential, lambda net: {"ensemble": [mlp(16), net]}, lambda net: [net]]
)
def test_teacher_that_shares_weights_with_the_student(tmp_path, wrap):
    module = Classifier()
    assert_raises(tmp_path, "teacher: shares weights", module, teacher=wrap(module.net))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": {}}, r"losses: must be a mapping .*, got \{\}"),
        ({"losses": [SoftTargetLoss()]}, r"losses: must be a mapping .*, got \[SoftTargetLoss"),
        ({"losses": {"a": nn.MSELoss()}}, r"losses\.a: MSELoss is not a DistillationLoss"),
        ({"losses": {"loss": SoftTargetLoss()}}, r"losses\.loss: .*rename"),
        ({"losses": {"hard": HardLabelLoss()}}, r"losses\.hard: HardLabelLoss needs labels"),
        ({"losses": {"a": SelfAttentionRelationLoss()}}, r"losses\.a: SelfAttentionRelationLoss needs queries"),
        ({"losses": {"a": ConsistencyLoss()}, "labels": 1}, r"losses\.a: ConsistencyLoss needs augmented texts"),
        ({"losses": {"a": HiddenStateMSELoss()}}, r"losses\.a: HiddenStateMSELoss compares layers"),
        (
            {"losses": {"a": HiddenStateMSELoss(layer_map={1: 1})}, "layers": {"0": "0"}},
            r"losses\.a\.layer_map: .*DistillationCallback\.layers",
        ),
    ],
)
def test_losses_that_need_something_else(settings, message):
    with pytest.raises(ValueError, match=message):
        callback(**settings)


class WithIdleLayer(nn.Sequential):
    def __init__(self):
        super().__init__(*mlp())
        self.idle = nn.Linear(3, 8)

    def forward(self, inputs):
        return self[2](self[1](self[0](inputs)))


class Doubling(nn.Module):
    """The output of the block is twice as wide as its weights."""

    def __init__(self):
        super().__init__()
        self.block, self.end = nn.Sequential(nn.Linear(6, 8)), nn.Linear(16, 3)
        self.block.register_forward_hook(lambda _, __, output: torch.cat([output, output], dim=-1))

    def forward(self, inputs):
        return self.end(self.block(inputs))


@pytest.mark.parametrize(
    ("build", "layer", "message"),
    [
        (WithIdleLayer, "idle", "layers: 'idle' returned no tensor"),
        (Doubling, "block", r"layers: 'block' returned shape \(8, 16\), .* width 8"),
    ],
)
def test_layer_without_an_output_of_its_width(tmp_path, build, layer, message):
    assert_raises(tmp_path, message, Classifier(net=build()), **{**HIDDEN, "layers": {layer: "0"}})
