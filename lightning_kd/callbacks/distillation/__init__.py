"""``DistillationCallback``: a teacher for any LightningModule."""
