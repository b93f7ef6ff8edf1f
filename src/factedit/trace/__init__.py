"""Causal tracing: where is the fact?"""
