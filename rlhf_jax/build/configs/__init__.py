"""What an experiment file is written with, and how it is read with no key lost."""
