"""What will be read next: forecasters, backtest, calibration and ranking."""
