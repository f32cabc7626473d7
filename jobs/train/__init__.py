"""The verbs `vigc train` and `vigc finetune`."""
