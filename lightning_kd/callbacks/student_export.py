"""Writes the best student as an ordinary Hugging Face folder."""

from pathlib import Path

from lightning_kd.callbacks.export import Export, Finished


class StudentExport(Export):
    """At the end of ``fit`` writes the best student: weights, tokenizer, label names and a model card.

    Args:
        folder: Where to write; null = ``student`` in the run's log folder. A folder of an earlier export is replaced,
            any other that is not empty is refused before training.
    """

    name = "student"
    key = "export"
    what = "Student"

    def __init__(self, folder: str | None = None) -> None:
        super().__init__(folder)

    def fill(self, folder: Path, student: Finished) -> None:
        """Weights, configuration, tokenizer, card."""
        student.network.save_pretrained(folder)
        student.save_description(folder)
        student.save_card(folder)
