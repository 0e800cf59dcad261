"""Four short programs that train on batches read by foreshard; each is run as `python -m examples.training.NAME`."""
