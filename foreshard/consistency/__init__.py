"""How a way of partitioning would affect the consistency of training: profile, trials and predictor."""
