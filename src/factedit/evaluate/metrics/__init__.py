"""What is measured beside a benchmark's own scores: one file per metric."""
