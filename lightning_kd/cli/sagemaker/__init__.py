"""Amazon SageMaker: the launcher of a training job, and its entry point."""
