"""The model server: TensorFlow Serving's interfaces on ONNX Runtime, under its usual flags.

    flags → registry (what is served) → core (one request) ← gRPC, REST

The core knows models, signatures and arrays; each protocol turns its messages into them and back.

One workload among others: it knows nothing of TEEs, attestation or sealed images, and needs
only gRPC's libraries, ``protobuf``, ``numpy`` and ``onnxruntime``; for REST also ``h11`` and
``orjson``. Run it as
``python -m casemate.serving --port=9000 --model_name=NAME --model_base_path=FOLDER``.
"""
