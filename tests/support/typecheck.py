"""The checker behind the shape annotations while tests run."""

from beartype import BeartypeConf, beartype

# An int where a float is annotated is right, as PEP 484 and pyright have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
