"""Finished models and data, for the commands that read them."""

import json

import pytest
import torch

from tests.helpers import clinc_rows, save_model, tiny_bert


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A folder with a teacher and a student; its name has a space."""
    root = tmp_path_factory.mktemp("my models")
    (root / "data_oos_plus.json").write_text(json.dumps(clinc_rows()), encoding="utf-8")
    save_model(tiny_bert(layers=3, seed=1), root / "teacher")
    save_model(tiny_bert(layers=1, seed=2), root / "student")
    return root


@pytest.fixture(scope="session")
def data_args(root):
    return ["--data", "CLINC150DataModule", "--data.path", root / "data_oos_plus.json"]


@pytest.fixture(scope="session")
def nan_model(tmp_path_factory):
    """Folder of a model that returns NaN for the texts about a room."""
    model = tiny_bert(layers=1, seed=1)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[123] = torch.nan
    return save_model(model, tmp_path_factory.mktemp("nan") / "model")
