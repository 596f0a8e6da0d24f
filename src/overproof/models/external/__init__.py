"""Networks that other people made: modules, zoos, checkpoints and ONNX files."""
