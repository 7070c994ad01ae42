"""A phone's kernels on this machine: the aarch64 wheel of ExecuTorch under QEMU. See ``docs/executorch.md``."""
