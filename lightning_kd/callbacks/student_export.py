"""Writes the best student as an ordinary Hugging Face folder."""

from pathlib import Path

from lightning_kd.callbacks.export import Export, TrainedStudent


class StudentExport(Export):
    """At the end of ``fit`` writes the best student: weights, tokenizer, label names and a model card.

    Args:
        output_dir: Where to write; null = ``student`` in the run's log folder. A folder of an earlier export is
            replaced, any other that is not empty is refused before training.
    """

    dirname = "student"
    config_key = "export"
    description = "Student"

    def __init__(self, output_dir: str | None = None) -> None:
        super().__init__(output_dir)

    def write_files(self, folder: Path, student: TrainedStudent) -> None:
        """Weights, configuration, tokenizer, card."""
        student.model.save_pretrained(folder)
        student.save_config_and_tokenizer(folder)
        student.save_card(folder)
