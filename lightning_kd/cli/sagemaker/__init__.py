"""Runs under Amazon SageMaker: the entry of a training job, and the launcher of one."""
