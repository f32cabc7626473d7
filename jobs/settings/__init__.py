"""Settings, said once: a typed model for each verb gives its flags, its `--config` file and its keywords."""
