import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    """These programs are tiny: compiling them is all the time that they take."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
