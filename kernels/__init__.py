"""The numerical kernels: one file per op in each of `reference`, `cpu` and `cuda`.

Kernels know arrays and nothing else. They take their outputs first, write into buffers they are
given and never allocate; scratch memory comes in through `work`, as many elements as the op's
`..._workspace` function says.
"""
