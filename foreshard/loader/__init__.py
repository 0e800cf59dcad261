"""What a training loop imports: sample orders and the loader."""
