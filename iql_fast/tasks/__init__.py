"""The tasks of the paper: sizes, files, the authors' settings, published scores."""
