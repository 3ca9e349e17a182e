"""A trained bundle in the formats that other programs serve: TorchScript, ONNX, OpenVINO, Triton's repository."""
