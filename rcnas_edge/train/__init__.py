"""Adversarial training: losses, recipes as named values, and `fit`, which resumes to the same result."""
