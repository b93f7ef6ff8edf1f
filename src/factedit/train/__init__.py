"""Training the networks of KE and MEND: examples, objective, loop."""
