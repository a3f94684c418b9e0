"""The life of one run: options, loop, folder, checkpoints, curves, summary."""
