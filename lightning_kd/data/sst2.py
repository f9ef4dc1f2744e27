"""SST-2: sentiment of phrases from film reviews."""

from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from lightning_kd.data.readers import Columns
from lightning_kd.data.text_classification import TextClassificationDataModule


class SST2DataModule(TextClassificationDataModule):
    """SST-2 (Socher et al. 2013) as in GLUE: 67,349 / 872 / 1,821 examples, 0 negative, 1 positive.

    The labels of the test split are not public; use the validation split for scores. The original layout is a folder
    with ``train.tsv``, ``dev.tsv`` and ``test.tsv``.

    Args:
        path: Hub id, or folder of the original release.
        tokenizer: Tokenizer, or its Hub id or folder. On the command line, defaults to the student's tokenizer.
        predict_path: File to predict: .txt with one text per line, or a table with a column ``sentence``; None for the
            test split.
        kwargs: ``validation_fraction``, ``allow_unlabeled``, ``prompt``, ``teacher_prompt``, ``teacher_tokenizer``,
            ``augmentation``, ``batch_size``, ``eval_batch_size``, ``max_length``, ``num_workers``, ``revision``,
            ``tokenizer_revision``; see ``TextClassificationDataModule`` and ``TextDataModule``.
    """

    canonical_label_names: ClassVar[list[str] | None] = ["negative", "positive"]

    def __init__(
        self,
        path: str = "nyu-mll/glue",
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        predict_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, tokenizer, ["sentence"], "label", "sst2", predict_path, **kwargs)

    def read_local(self, path: Path) -> dict[str, Columns]:
        """Read GLUE's files, whose labels are 0 and 1, even if only one of them occurs."""
        splits = super().read_local(path)
        names = {"0": "negative", "1": "positive"}
        for columns in splits.values():
            if self.label_column in columns:
                columns[self.label_column] = [names.get(str(label), label) for label in columns[self.label_column]]
        return splits
