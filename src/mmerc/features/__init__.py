"""From text, audio and video to feature vectors: the same code for training and for prediction."""
