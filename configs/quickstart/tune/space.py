"""A search space with conditions for configs/quickstart/distill.yaml; docs/tuning.md explains the form.

lightning-kd tune --config configs/quickstart/distill.yaml --search_space configs/quickstart/tune/space.py:space \
    --n_trials 30
"""


def space(trial):
    """Return config overrides for an ``optuna.Trial``."""
    alpha = trial.suggest_float("alpha", 0, 1)
    optimizer = trial.suggest_categorical("optimizer", ["torch.optim.AdamW", "torch.optim.SGD"])
    overrides = {
        "model.losses.hard.init_args.weight": 1 - alpha,
        "model.losses.soft.init_args.weight": alpha,
        "model.losses.soft.init_args.temperature": trial.suggest_float("temperature", 1, 20, log=True),
        "model.optimizer.class_path": optimizer,
    }
    if optimizer == "torch.optim.SGD":
        overrides["model.optimizer.init_args.lr"] = trial.suggest_float("lr_sgd", 0.01, 1, log=True)
        overrides["model.optimizer.init_args.momentum"] = trial.suggest_float("momentum", 0, 0.99)
    else:
        overrides["model.optimizer.init_args.lr"] = trial.suggest_float("lr_adamw", 5e-4, 1e-2, log=True)
    return overrides
