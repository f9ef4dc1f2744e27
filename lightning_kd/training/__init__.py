"""``DistillationModule``, its checks and loss schedules, and the watchdog of its worker processes."""
