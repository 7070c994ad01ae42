"""Take a Meta Llama checkpoint to phones (ExecuTorch), browsers (ONNX) and desktops (GGUF) through one graph."""

__version__ = "0.1.0"
