"""The command line: train, check, generate, score, export, report, digest."""
