"""Scoring without PyTorch: what a model folder says, its graphs, tokenizers and ONNX Runtime."""
