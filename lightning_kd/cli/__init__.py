"""The ``lightning-kd`` command: one file per subcommand."""
