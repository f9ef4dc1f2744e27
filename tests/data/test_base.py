"""Arguments, batches and loaders of all DataModules."""

import pickle
import shutil

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_kd import CLINC150DataModule
from tests.helpers import TINY_BERT, clinc_rows

TEST_ROWS = clinc_rows()["test"] + clinc_rows()["oos_test"]


@pytest.fixture
def module(clinc_file):
    def make(**arguments):
        return CLINC150DataModule(str(clinc_file), **{"tokenizer": TINY_BERT, "batch_size": 8, **arguments})

    return make


def as_lists(loader):
    return [{name: tensor.tolist() for name, tensor in batch.items()} for batch in loader]


@pytest.mark.parametrize(
    ("name", "value", "minimum"),
    [("batch_size", 0, 1), ("eval_batch_size", 0, 1), ("max_length", 0, 1), ("num_workers", -1, 0)],
)
def test_number_out_of_range(name, value, minimum):
    with pytest.raises(ValueError, match=rf"^data\.{name}: must be >= {minimum}, got {value}$"):
        CLINC150DataModule(**{name: value})


def test_default_eval_batch_size():
    assert CLINC150DataModule(batch_size=5).eval_batch_size == 10
    assert CLINC150DataModule(batch_size=5, eval_batch_size=3).eval_batch_size == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        # [CLS] and [SEP] fill it, and tokenizers then truncate nothing or everything
        ({"max_length": 1}, ValueError, r"data\.max_length: .*1"),
        ({"max_length": 2}, ValueError, r"data\.max_length: .*2"),
        ({"tokenizer": None}, ValueError, r"data\.tokenizer: not given"),
        ({"tokenizer": "no/where"}, OSError, r"data\.tokenizer 'no/where' is neither .* local folder"),
    ],
)
def test_arguments_that_setup_checks(module, arguments, error, message):
    with pytest.raises(error, match=message):
        module(**arguments).setup("fit")


def test_tokenizer_as_folder_or_object(module, tokenizer):
    by_folder, by_object = module(tokenizer=str(TINY_BERT)), module(tokenizer=tokenizer)
    by_folder.setup("test")
    by_object.setup("test")
    assert by_object.tokenizer is tokenizer
    assert as_lists(by_folder.test_dataloader()) == as_lists(by_object.test_dataloader())


def test_tokenizer_revision(tokenizer, tmp_path, add_to_hub_cache):
    for tokens, branch in enumerate(("main", "v2")):
        tokenizer.add_tokens(["lightning"] * tokens)
        tokenizer.save_pretrained(tmp_path / branch)
        shutil.copy(TINY_BERT / "config.json", tmp_path / branch)
        add_to_hub_cache(tmp_path / branch, "some/tokenizer", str(tokens) * 40, branch)
    sizes = [
        len(CLINC150DataModule("x", "some/tokenizer", tokenizer_revision=revision).tokenizer)
        for revision in (None, "v2")
    ]
    assert sizes == [len(tokenizer) - 1, len(tokenizer)]


@pytest.mark.parametrize("name", ["revision", "tokenizer_revision"])
def test_revision_of_something_that_is_not_on_the_hub(name, clinc_file, tokenizer):
    for source in (str(TINY_BERT), tokenizer):
        with pytest.raises(ValueError, match=rf"^data\.{name}: only for a Hub id, got 'v2' for .*; remove it$"):
            CLINC150DataModule(str(clinc_file), source, **{name: "v2"})


def test_batch(module, tokenizer):
    data = module()
    data.setup("test")
    for batch in data.test_dataloader():
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels", "row_id"}
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
        texts = [TEST_ROWS[row][0] for row in batch["row_id"]]
        expected = tokenizer(texts, padding=True, return_tensors="pt")  # to the longest of the batch
        for name, tensor in expected.items():
            assert torch.equal(batch[name], tensor)
        assert [data.label_names[i] for i in batch["labels"]] == [TEST_ROWS[row][1] for row in batch["row_id"]]
        assert data.texts()["text"] == [text for text, _ in TEST_ROWS]


def test_longer_texts_are_truncated(module, tokenizer):
    data = module(max_length=5)
    data.setup("fit")
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch["input_ids"].shape[1] == 5
        assert batch["input_ids"][:, -1].tolist() == [tokenizer.sep_token_id] * len(batch["input_ids"])


@pytest.mark.parametrize("eval_batch_size", [1, 7, 36, 100])
def test_evaluation_covers_each_example_once(module, eval_batch_size):
    data = module(eval_batch_size=eval_batch_size)
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        rows = torch.cat([batch["row_id"] for batch in loader]).tolist()
        assert sorted(rows) == list(range(36))
        assert len(loader) == -(-36 // eval_batch_size)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_do_not_change_batches(module):
    torch.manual_seed(1)
    without, with_workers = module(num_workers=0), module(num_workers=2)
    for data in (without, with_workers):
        data.setup("fit")
    assert as_lists(without.train_dataloader()) == as_lists(with_workers.train_dataloader())
    assert as_lists(without.val_dataloader()) == as_lists(with_workers.val_dataloader())


def test_order_depends_on_the_saved_seed(module):
    torch.manual_seed(1)
    first, other, resumed = module(), module(), module()
    first.setup("fit")
    torch.manual_seed(2)
    other.setup("fit")
    resumed.setup("fit")
    resumed.load_state_dict(first.state_dict())
    assert first.state_dict() == resumed.state_dict() == {"seed": 1, "position": {"epoch": 0, "batches": 0}}
    order, other_order, resumed_order = (as_lists(data.train_dataloader()) for data in (first, other, resumed))
    assert order == resumed_order != other_order


def test_train_loader_without_a_trainer(module):
    data = module()
    data.setup("fit")
    loader = data.train_dataloader()
    batches = as_lists(loader)
    assert len(batches) == len(loader) == 9
    rows = [row for batch in batches for row in batch["row_id"]]
    assert sorted(rows) == list(range(72)) != rows
    assert loader.state_dict() == {"epoch": 1, "batches": 0}
    second = as_lists(loader)
    assert second != batches
    loader.load_state_dict({"epoch": 0, "batches": 7})
    assert as_lists(loader) == batches[7:]
    assert as_lists(loader) == second
    loader.sampler.set_epoch(0)
    assert as_lists(loader) == batches


class Pickler(LightningModule):
    """Pickles the objects that are sent to worker processes which are not forked (macOS, Windows, Python 3.14)."""

    def validation_step(self, batch, _):
        loader = self.trainer.datamodule.val_dataloader()
        self.pickled = pickle.dumps((loader.dataset, loader.collate_fn))


def test_trainer_is_not_sent_to_workers(module):
    model = Pickler()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(accelerator="cpu", limit_val_batches=1, **off).validate(model, module(), verbose=False)
    assert b"Trainer" not in model.pickled
