"""Learning rate schedules, parameter groups and ``LazyAdamW``."""
