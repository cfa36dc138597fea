"""Cost of a training step on a TPU, estimated by the TPU compiler from shapes alone."""
