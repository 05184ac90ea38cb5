"""The same ONNX model in other people's servers, each run by that server's own Python."""
