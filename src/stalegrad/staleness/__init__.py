"""Distributions of compute times, and what renewal theory says of staleness."""
