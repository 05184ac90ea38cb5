"""The model server: TensorFlow Serving's gRPC on ONNX Runtime, under its usual flags.

One workload among others: it knows nothing of TEEs, attestation or sealed images, and needs
only ``grpcio``, ``protobuf``, ``numpy`` and ``onnxruntime``. Run it as
``python -m casemate.serving --port=9000 --model_name=NAME --model_base_path=FOLDER``.
"""
