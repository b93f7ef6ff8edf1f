"""Files of models: folders in the transformers format, GGUF files, embedded packages; reading and writing them."""
