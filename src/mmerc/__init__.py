"""Multimodal emotion recognition in conversation."""
