"""Trained models to share: weights and a card, in folders, on a hub, as ONNX."""
