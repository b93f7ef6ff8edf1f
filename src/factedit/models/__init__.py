"""The only place that knows architectures and tokenizers."""
