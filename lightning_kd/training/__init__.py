"""``DistillationModule``, its checks, and the watchdog of its processes."""
