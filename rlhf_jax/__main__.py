"""`python -m rlhf_jax` is the console script `rlhf-jax`."""

import sys

from rlhf_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
