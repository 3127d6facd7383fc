"""Losses, the one training loop, and the five stages that plug into it."""
