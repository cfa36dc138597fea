"""What a training step would cost on a TPU: asked of the TPU's own compiler, from shapes alone."""
