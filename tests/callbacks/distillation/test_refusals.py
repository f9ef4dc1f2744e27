"""What does not go together is said in one line, before training or in its first step."""

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_kd.losses import (
    ConsistencyLoss,
    HardLabelLoss,
    HiddenStateCosineLoss,
    HiddenStateMSELoss,
    SelfAttentionRelationLoss,
    SoftTargetLoss,
)
from tests.callbacks.distillation.dropin import Classifier, callback, equal_tensors, fit, mlp, teacher, weights
from tests.helpers import module as distillation_module


def assert_refused(tmp_path, message, module=None, **settings):
    module = module or Classifier()
    before = weights(module)
    with pytest.raises(ValueError, match=message) as info:
        fit(module, tmp_path, callback(**settings))
    assert "\n" not in str(info.value)
    assert equal_tensors(before, weights(module))
    assert "training_step" not in module.__dict__
    assert all(parameter.requires_grad for parameter in module.parameters())


class Manual(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Two(Classifier):
    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[2])]


def test_manual_optimization(tmp_path):
    assert_refused(tmp_path, "Manual optimises manually, so its step goes backward itself", Manual())


def test_several_optimizers(tmp_path):
    """Lightning itself refuses these without manual optimisation."""
    with pytest.raises(RuntimeError, match="multiple optimizers is only supported with manual optimization"):
        fit(Two(), tmp_path, callback())


def test_module_with_a_teacher_of_its_own(tmp_path):
    with pytest.raises(ValueError, match=r"a DistillationModule has a teacher of its own; set model\.teacher"):
        callback().setup(None, distillation_module(), "fit")


def test_whole_module_compiled(tmp_path):
    with pytest.raises(ValueError, match=r"compile the network inside instead: module\.net\.compile\(\)"):
        fit(torch.compile(Classifier(), backend="eager"), tmp_path, callback())


@pytest.mark.parametrize("strategy", [ModelParallelStrategy, DeepSpeedStrategy])
def test_sharded_strategies(tmp_path, strategy):
    run = type("Run", (), {"strategy": object.__new__(strategy), "callbacks": []})
    with pytest.raises(ValueError, match=f"{strategy.__name__} divides weights and optimiser"):
        callback().setup(run, Classifier(), "fit")


def test_no_such_model(tmp_path):
    assert_refused(tmp_path, r"student: Classifier has no network 'nett'; it has net$", student="nett")


def test_teacher_that_is_the_student(tmp_path):
    module = Classifier()
    assert_refused(tmp_path, "has weights of the student; pass a copy", module, teacher=module.net)
    assert_refused(tmp_path, "has weights of the student; pass a copy", module, teacher=nn.Sequential(module.net))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": {}}, "losses: empty; give at least one"),
        ({"losses": {"loss": SoftTargetLoss()}}, "'loss' is logged by the callback itself"),
        ({"losses": {"hard": HardLabelLoss()}}, r"losses\.hard: HardLabelLoss compares with labels"),
        (
            {"losses": {"a": SelfAttentionRelationLoss()}},
            r"losses\.a: SelfAttentionRelationLoss compares queries, keys and values",
        ),
        (
            {"losses": {"a": ConsistencyLoss()}, "labels": 1},
            r"losses\.a: ConsistencyLoss compares with texts",
        ),
        ({"losses": {"a": HiddenStateMSELoss()}}, r"losses\.a: HiddenStateMSELoss compares layers; name pairs"),
        (
            {"losses": {"a": HiddenStateMSELoss(layer_map={1: 1})}, "layers": {"0": "0"}},
            r"losses\.a\.layer_map: the pairs are those",
        ),
    ],
)
def test_losses_that_lack_something(settings, message):
    with pytest.raises(ValueError, match=message):
        callback(**settings)


LAYERS = {"losses": {"hidden": HiddenStateMSELoss()}}


def test_layers_that_do_not_fit(tmp_path):
    assert_refused(tmp_path, "the student, Sequential, has no '7'; its parts are 0, 1, 2", **LAYERS, layers={"7": "0"})
    assert_refused(tmp_path, "'1' of the teacher does not say how wide its output is", **LAYERS, layers={"0": "1"})
    cosine = {"losses": {"angle": HiddenStateCosineLoss()}}
    assert_refused(tmp_path, "the student is 8 wide and the teacher 32", **cosine, layers={"0": "0"})
    assert_refused(
        tmp_path, "an ensemble has those of several", **LAYERS, layers={"0": "0"}, teacher=[teacher(), teacher()]
    )


def test_layer_that_is_not_called(tmp_path):
    class Idle(nn.Sequential):
        def __init__(self):
            super().__init__(*mlp())
            self.aside = nn.Linear(3, 8)

        def forward(self, inputs):
            return self[2](self[1](self[0](inputs)))

    module = Classifier()
    module.net = Idle()
    assert_refused(tmp_path, "'aside' gave no tensor in this call", module, **LAYERS, layers={"aside": "0"})


def test_layer_of_another_width_than_its_weights_say(tmp_path):
    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.end = nn.Linear(6, 8), nn.Linear(16, 3)
            self.block = nn.Sequential(self.inner)
            self.block.register_forward_hook(lambda _, __, output: torch.cat([output, output], dim=-1))

        def forward(self, inputs):
            return self.end(self.block(inputs))

    module = Classifier()
    module.net = Doubling()
    message = r"'block' gave the shape \(8, 16\), but its weights say a width of 8"
    assert_refused(tmp_path, message, module, **LAYERS, layers={"block": "0"})


class Twice(Classifier):
    """Consistency of two views."""

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        first = self.net(inputs)
        second = self.net(inputs * 2)
        return cross_entropy(first, labels) + cross_entropy(second, labels)


def test_several_calls_need_a_choice(tmp_path):
    assert_refused(tmp_path, r"training_step calls 'net' 2 times; say which call counts, call=0", Twice())
    assert_refused(tmp_path, r"call: 2, but training_step calls 'net' 2 times", Twice(), call=2)


@pytest.mark.parametrize(("call", "factor"), [(0, 1), (-1, 2), (1, 2), (-2, 1)])
def test_call_that_counts(tmp_path, call, factor):
    module = Twice()
    fit(module, tmp_path, callback(call=call, losses={"logits": SoftTargetLoss(3.0)}))

    class ByHand(Twice):
        def training_step(self, batch, batch_idx):
            own = super().training_step(batch, batch_idx)
            inputs = batch[0] * factor
            p = targets(inputs).log_softmax(-1).detach()
            q = self.net(inputs).log_softmax(-1)
            return own + 3.0 * torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)

    targets, expected = teacher(), ByHand()
    fit(expected, tmp_path)
    torch.testing.assert_close(weights(module), weights(expected))


def test_call_without_gradients(tmp_path):
    class Momentum(Twice):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.net(batch[0])
            return Classifier.training_step(self, batch, batch_idx)

    assert_refused(tmp_path, "the call that counts was made without gradients", Momentum(), call=0)
    fit(Momentum(), tmp_path, callback(call=1))


def test_model_that_is_not_called(tmp_path):
    class Around(Classifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.net.forward(batch[0]), batch[1])

    assert_refused(tmp_path, "training_step does not call 'net', or calls its forward", Around())


def test_logits_of_another_number_of_classes(tmp_path):
    assert_refused(tmp_path, r"student logits have shape \(8, 3\), teacher logits \(8, 5\)", teacher=nn.Linear(6, 5))
