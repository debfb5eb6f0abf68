"""Compiled kernels: C++ for CPUs, CUDA C++ and Triton for GPUs, and what they are handed."""
