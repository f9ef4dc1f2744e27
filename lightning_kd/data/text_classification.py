"""Text classification data from the Hub or local files."""

from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import datasets
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.augmentation import Augmentation
from lightning_kd.data.base import TextDataModule
from lightning_kd.data.collators import TEXT_COLUMN, Collator, collate_with_augmentation, prefix_teacher_columns
from lightning_kd.data.label_indices import index_labels, infer_label_names, is_missing_label
from lightning_kd.data.readers import Columns, check_columns, read_columns
from lightning_kd.data.splits import hold_out_validation, load_hub_splits, read_splits
from lightning_kd.data.tokenization import Prompt, tokenize_texts
from lightning_kd.outputs import IGNORE_INDEX

TEXT_KEYS = ("text", "text_pair")
"""Text columns of the loaded splits, beside ``label``, a class index."""


class TextClassificationDataModule(TextDataModule):
    """Texts, or pairs of texts, with one label each.

    ``path`` is a Hub id, a file, or a folder with ``train``, ``validation`` (or ``dev``, ``val``) and ``test`` as
    .csv, .tsv, .jsonl or .json. Labels may be names or indices; the names in local files are sorted alphabetically
    (numbers by value).

    Args:
        path: Hub id, local file, or folder.
        tokenizer: Tokenizer, or its Hub id or folder. On the command line, defaults to the student's tokenizer.
        text_columns: One column, or two for pairs of texts; None for ``text``.
        label_column: Column of the label; a table without it is unlabeled.
        config_name: Configuration of the Hub dataset, if it has several.
        predict_path: File to predict: .txt with one text per line, or a table with the text columns; None for the test
            split.
        validation_fraction: Fraction of the training examples to hold out if there is no validation split, in [0, 1).
        allow_unlabeled: If True, training examples may lack a label: losses that read the teacher use them,
            ``HardLabelLoss`` ignores them. If False, a missing label is an error.
        prompt: Template for the student's input, with the names of the text columns in braces, such as
            ``The intent of "{text}" is``; None for the text alone.
        teacher_prompt: Template for the teacher's input only (prompt internalization); None for the same input as the
            student's, or, with ``teacher_tokenizer``, the text alone.
        teacher_tokenizer: The teacher's tokenizer if it differs from the student's, or its Hub id or folder; a list for
            the models of an ensemble. Each model reads the same texts in its tokenization.
        augmentation: Augments the training texts for ``ConsistencyLoss``, differently in each epoch.
        kwargs: ``batch_size``, ``eval_batch_size``, ``max_length``, ``num_workers``, ``revision``,
            ``tokenizer_revision``; see ``TextDataModule``.

    Raises:
        ValueError: If there are not one or two ``text_columns``, ``validation_fraction`` is out of range, or two
            arguments are mutually exclusive.
    """

    ENCODING_VERSION = 1
    supports_teacher_tokenizer = True
    canonical_label_names: ClassVar[list[str] | None] = None
    """Label order of published checkpoints of this dataset; None to take it from the data."""

    def __init__(
        self,
        path: str,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        text_columns: list[str] | None = None,
        label_column: str = "label",
        config_name: str | None = None,
        predict_path: str | None = None,
        validation_fraction: float = 0.0,
        allow_unlabeled: bool = False,
        prompt: str | None = None,
        teacher_prompt: str | None = None,
        teacher_tokenizer: str | PreTrainedTokenizerBase | list[str] | None = None,
        augmentation: Augmentation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, tokenizer, **kwargs)
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: must be in [0, 1), got {validation_fraction}")
        if validation_fraction and allow_unlabeled:
            raise ValueError(
                "data.validation_fraction: unlabeled examples could be held out with data.allow_unlabeled; add a "
                "validation file"
            )
        self.validation_fraction = validation_fraction
        self.text_columns = ["text"] if text_columns is None else text_columns
        if len(self.text_columns) not in (1, 2):
            raise ValueError(f"data.text_columns: must be one or two columns, got {self.text_columns}")
        self.label_column = label_column
        self.config_name = config_name
        self.predict_path = predict_path
        self.allow_unlabeled = allow_unlabeled
        columns = tuple(self.text_columns)
        self.prompt = None if prompt is None else Prompt(prompt, columns, "data.prompt")
        self.teacher_prompt = None if teacher_prompt is None else Prompt(teacher_prompt, columns, "data.teacher_prompt")
        self._teacher_tokenizer = teacher_tokenizer
        if augmentation is not None and len(columns) == 2:
            raise ValueError(
                "data.augmentation: cannot augment pairs of texts (data.text_columns names two); remove it"
            )
        self.augmentation = augmentation
        self.is_stochastic = self.is_stochastic or augmentation is not None

    @property
    def label_names(self) -> list[str] | None:
        """Class names in index order, available before ``setup``; None for unlabeled data."""
        return self._splits_and_label_names[1] or None

    def read_local(self, path: Path) -> dict[str, Columns]:
        """Read the splits of a local file or folder; override this for other layouts."""
        return read_splits(path)

    @cached_property
    def _splits_and_label_names(self) -> tuple[dict[str, datasets.Dataset], list[str]]:
        local = Path(self.path).expanduser()
        tables, names = self._read_files(local) if local.exists() else self._read_hub()
        splits = {split: self._to_dataset(split, columns, names) for split, columns in tables.items()}
        if self.validation_fraction and "train" in splits and "validation" not in splits:
            parts = hold_out_validation(splits["train"], self.validation_fraction, self.path)
            splits |= {split: part.flatten_indices() for split, part in parts.items()}
        return splits, names

    def _read_files(self, path: Path) -> tuple[dict[str, Columns], list[str]]:
        tables = self.read_local(path)
        names = infer_label_names([table[self.label_column] for table in tables.values() if self.label_column in table])
        canonical = self.canonical_label_names or []
        if set(names) <= set(canonical) or names == [str(index) for index in range(len(canonical))]:
            names = canonical
        return tables, names

    def _to_dataset(self, split: str, columns: Columns, names: list[str]) -> datasets.Dataset:
        if not columns:  # no rows: setup raises that the split is empty
            return datasets.Dataset.from_dict({"text": [], "label": []})
        where = f"{self.path} ({split})"
        table = self._select_texts(columns, where)
        labels = columns.get(self.label_column)
        if self.allow_unlabeled and split == "train":
            table["label"] = index_labels(labels or [None] * len(table["text"]), names, where, allow_unlabeled=True)
            unlabeled = table["label"].count(IGNORE_INDEX)
            rank_zero_info(f"{where}: {unlabeled:,} of {len(table['label']):,} training examples have no label")
        elif labels is not None and not (labels and all(map(is_missing_label, labels))):
            table["label"] = index_labels(labels, names, where)
        return datasets.Dataset.from_dict(table)

    def _select_texts(self, columns: Columns, where: str) -> Columns:
        check_columns(f"data.text_columns: {where}", self.text_columns, columns)
        for name in self.text_columns:
            for number, text in enumerate(columns[name], 1):
                if not isinstance(text, str) or not text.strip():
                    raise ValueError(f"{where}, row {number}: no text in column {name!r}; add it or remove the row")
        return {key: columns[name] for key, name in zip(TEXT_KEYS, self.text_columns, strict=False)}

    def _read_hub(self) -> tuple[dict[str, Columns], list[str]]:
        loaded = load_hub_splits(self.path, self.config_name, self.revision)
        features = next(iter(loaded.values())).features
        check_columns(f"data.label_column: {self.path!r}", [self.label_column], features)
        check_columns(f"data.text_columns: {self.path!r}", self.text_columns, features)
        read_names = [*self.text_columns, self.label_column]
        tables = {split: {name: list(rows[name]) for name in read_names} for split, rows in loaded.items()}
        label_feature = features[self.label_column]
        if isinstance(label_feature, datasets.ClassLabel):
            names = list(label_feature.names)
            for table in tables.values():  # convert to names, because a class named "1" may have another index
                indices = table[self.label_column]
                table[self.label_column] = [i if i is None or i < 0 else names[i] for i in indices]
        else:
            names = infer_label_names([table[self.label_column] for table in tables.values()])
        return tables, names

    def _missing_split_hint(self, split: str) -> str:
        hold_out = "; or hold out examples with data.validation_fraction=0.1" if split == "validation" else ""
        return super()._missing_split_hint(split) + hold_out

    def setup(self, stage: str) -> None:
        """Load the tokenized splits of a stage; before training, check that their labels can be learned.

        Raises:
            ValueError: If there is only one class, or training and validation split have no label in common.
        """
        super().setup(stage)
        if stage == "fit":
            self._check_labels()

    def _check_labels(self) -> None:
        names = self.label_names or []
        train, validation = (set(self._splits[split].unique("labels")) for split in ("train", "validation"))
        found = sorted((train | validation) - {IGNORE_INDEX})
        if len(found) == 1:
            raise ValueError(
                f"data.label_column: all examples in {self.path!r} have the label {names[found[0]]!r}, so there is "
                "nothing to learn; name another column, or add examples of another class"
            )
        missing = [names[index] for index in sorted(validation - train)]
        if not missing or IGNORE_INDEX in train:  # a teacher labels the others
            return
        listed = ", ".join(map(repr, missing[:5])) + ", ..." * (len(missing) > 5)
        where = (
            f"data.label_column: {len(missing)} of {len(validation)} labels of the validation split of {self.path!r}"
        )
        if len(missing) == len(validation):
            raise ValueError(f"{where} are missing in the training split ({listed}); use splits with the same classes")
        rank_zero_warn(f"{where} are missing in the training split ({listed}); the student cannot learn them from it")

    def load(self, split: str) -> datasets.Dataset | None:
        """Return the raw examples of a split: ``text``, ``text_pair`` for pairs, and ``label`` except to predict.

        Raises:
            ValueError: If a split that requires labels has none.
        """
        if split == "predict":
            return self._load_texts_to_predict()
        rows = self._splits_and_label_names[0].get(split)
        if rows is not None and "label" not in rows.column_names:
            raise ValueError(
                f"data.label_column: the {split} split of {self.path!r} has no labels "
                f"in a column {self.label_column!r}"
                + "; evaluate the validation split, or label this one with `predict`"
                * (split == "test")
            )
        return rows

    def _load_texts_to_predict(self) -> datasets.Dataset:
        if self.predict_path is None:
            rows = self._splits_and_label_names[0].get("test")
            if rows is None:
                raise ValueError(
                    f"data.predict_path: not given, and {self.path!r} has no test split; set it to a file of texts"
                )
            return rows.select_columns([name for name in TEXT_KEYS if name in rows.column_names])
        path = Path(self.predict_path).expanduser()
        if not path.is_file():
            raise ValueError(f"data.predict_path: {str(path)!r} is not a file")
        columns = read_columns(path)
        if not columns:
            raise ValueError(f"data.predict_path: {str(path)!r} is empty")
        if path.suffix == ".txt":
            columns = {self.text_columns[0]: columns["text"]}
        return datasets.Dataset.from_dict(self._select_texts(columns, str(path)))

    def texts(self) -> dict[str, list[str]]:
        """Return the texts to predict by column, in the order of ``row_id``."""
        rows = self.load("predict")
        assert rows is not None  # else setup("predict") has raised
        return {name: list(rows[column]) for name, column in zip(self.text_columns, TEXT_KEYS, strict=False)}

    def encode(self, examples: Columns) -> Columns:
        """Tokenize texts, truncated to ``max_length``, for the student and separately for the teacher.

        Raises:
            ValueError: If ``max_length`` leaves no room for text.
        """
        texts = [examples[column] for column in TEXT_KEYS if column in examples]
        encoded = tokenize_texts(self.tokenizer, self.prompt, self.max_length, texts)
        if "label" in examples:
            encoded["labels"] = examples["label"]
            for index, tokenizer in enumerate(self.teacher_tokenizers):
                encoded |= prefix_teacher_columns(
                    index, tokenize_texts(tokenizer, self.teacher_prompt, self.max_length, texts)
                )
            if self.augmentation is not None:
                encoded[TEXT_COLUMN] = examples["text"]
        return encoded

    def _encoding_key(self) -> str:
        return f"{super()._encoding_key()} {self.prompt} {self.teacher_prompt} {self.augmentation is not None}"

    def collate(self, list_columns: set[str], train: bool) -> Collator:
        """Return the function that turns columns into a batch, with augmented training examples."""
        base_collator = super().collate(list_columns, train)
        if self.augmentation is None or not train:
            return base_collator
        assert self._seed is not None
        self.augmentation.fit(self._splits_and_label_names[0]["train"]["text"][:])
        encode = partial(tokenize_texts, self.tokenizer, self.prompt, self.max_length)
        return partial(collate_with_augmentation, self.tokenizer, encode, self.augmentation, self._seed, base_collator)
