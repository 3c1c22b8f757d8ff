"""Sparse training: which weights stay zero, one method a file, over the masks of
:mod:`edgekit.compress.train.masks`."""
