"""Classify images with an exported file: onnxruntime and numpy, nothing of overproof.

    python classify.py model.onnx images.npy

``images.npy`` holds uint8 images or floats in [0, 1]: ``[H, W]``, ``[C, H, W]`` or ``[N, C, H, W]``. The normalisation
is inside the file.
"""

import json
import sys

import numpy as np
import onnxruntime


def classify(session, images):
    """Return the class names and confidences of images ``[N, C, H, W]``, two lists of length N."""
    pixels = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)
    (logits,) = session.run(["logits"], {"pixels": pixels})
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidences = exponents / exponents.sum(axis=1, keepdims=True)
    names = json.loads(session.get_modelmeta().custom_metadata_map["overproof.classes"])
    best = confidences.argmax(axis=1)
    return [names[index] for index in best], confidences.max(axis=1).tolist()


if __name__ == "__main__":
    network = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    channels, height, width = network.get_inputs()[0].shape[1:]
    given = np.load(sys.argv[2], allow_pickle=False).reshape(-1, channels, height, width)
    for name, confidence in zip(*classify(network, given), strict=True):
        print(f"{name} {confidence:.3f}")
