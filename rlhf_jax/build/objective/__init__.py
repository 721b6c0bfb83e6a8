"""What a stage optimizes: rewards, estimators, terms and optimizers by their names."""
