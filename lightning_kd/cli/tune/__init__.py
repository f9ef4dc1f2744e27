"""``lightning-kd tune``: the same run many times, with the settings that Optuna proposes."""
