"""``python -m lightning_kd``."""

from lightning_kd.cli.main import main

if __name__ == "__main__":
    main()
