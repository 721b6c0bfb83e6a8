"""Array mathematics without networks, configs or tokenizers (layer 0)."""
