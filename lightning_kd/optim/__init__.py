"""Learning rate schedules, parameter groups and optimizers."""
