"""The CUDA kernels on the CPU: a stand-in for the GPU that needs only a C++ compiler."""
