"""Reusable layers; each works on the flat batch (N, ·) and is tested against plain loops."""
