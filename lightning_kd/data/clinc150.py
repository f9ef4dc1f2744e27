"""CLINC150: intents of requests to an assistant, some of them out of scope."""

from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_kd.data.readers import Columns, read_json
from lightning_kd.data.text_classification import TextClassificationDataModule

SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Keys of the original release and their splits; ``oos_<key>`` has the out-of-scope examples."""


class CLINC150DataModule(TextClassificationDataModule):
    """CLINC150 (Larson et al. 2019): 150 intents and ``oos``; 15,250 / 3,100 / 5,500 examples in the variant ``plus``.

    Labels are always in the Hub's order, which published checkpoints use. The original layout is one JSON file such as
    ``data_oos_plus.json``, or the folder that contains it. Files in that layout may have other intents (sorted
    alphabetically), and the intent ``null`` for unlabeled examples.

    Args:
        path: Hub id, file or folder of the original release.
        tokenizer: Tokenizer, or its Hub id or folder. On the command line, defaults to the student's tokenizer.
        config_name: Variant: ``plus``, ``small`` or ``imbalanced``.
        predict_path: File to predict: .txt with one text per line, or a table with a column ``text``; None for the test
            split.
        kwargs: ``validation_fraction``, ``allow_unlabeled``, ``prompt``, ``teacher_prompt``, ``teacher_tokenizer``,
            ``augmentation``, ``batch_size``, ``eval_batch_size``, ``max_length``, ``num_workers``, ``revision``,
            ``tokenizer_revision``; see ``TextClassificationDataModule`` and ``TextDataModule``.
    """

    canonical_label_names = files("lightning_kd.data").joinpath("clinc150_labels.txt").read_text("utf-8").split()

    def __init__(
        self,
        path: str = "clinc/clinc_oos",
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        config_name: str = "plus",
        predict_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, tokenizer, ["text"], "intent", config_name, predict_path, **kwargs)

    def read_local(self, path: Path) -> dict[str, Columns]:
        """Read the original JSON: the examples of each split, followed by its out-of-scope examples.

        Raises:
            ValueError: If there is no such file, or it has a different layout.
        """
        variant = "oos_plus" if self.config_name == "plus" else self.config_name
        file = path if path.is_file() else path / f"data_{variant}.json"
        if not file.is_file():
            raise ValueError(f"data.path: {str(path)!r} has no {file.name}; use the original release of CLINC150")
        content = read_json(file)
        if not isinstance(content, dict) or not SPLITS.keys() <= content.keys():
            raise ValueError(
                f"data.path: {str(file)!r} is not in CLINC150's layout (keys {', '.join(SPLITS)}, oos_...)"
            )
        columns: dict[str, Columns] = {}
        for key, split in SPLITS.items():
            examples = []
            for name in (key, f"oos_{key}"):
                part = content.get(name, [])
                if not isinstance(part, list):
                    raise ValueError(f"{file}: {name!r} must be a list of [text, intent]")
                for number, row in enumerate(part, 1):
                    if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], (str, int, NoneType))):
                        raise ValueError(f"{file} ({name}), row {number}: expected [text, intent], got {row!r:.60}")
                examples += part
            columns[split] = {"text": [text for text, _ in examples], "intent": [intent for _, intent in examples]}
        return columns
