"""Causal factorisations, mechanisms that change, and trees of mutual information: the slides' first half."""
