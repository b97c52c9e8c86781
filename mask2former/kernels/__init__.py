"""The operations the papers' networks spend their time in, each in its textbook form and in faster ones.

The first thing in each file is the textbook form: the operation as the paper writes it, in plain PyTorch, valid on
every device and in every float type, under autograd, autocast, the compiler and export. The faster forms stand beside
it. `route` alone decides which one runs; `mask2former env` prints what it decides on a machine, and why.
"""
