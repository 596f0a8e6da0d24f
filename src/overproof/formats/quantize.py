"""An ONNX file in INT8: weights and activations in 8 bits, with scales that training images set."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from overproof.data.images import ImageSet, balanced_subset, pixels
from overproof.environment import package
from overproof.errors import InputError
from overproof.formats.onnx import INPUT, quiet

Calibration = Literal["minmax", "entropy", "percentile"]
_BATCH = 64
_LEAST = 64  # fewer images leave activations unseen that the next ones reach
_PERCENTILE = 99.99
# With onnxruntime's own 128 bins entropy is minmax by another name: it may only cut what is beyond 128 of them.
_BINS = 512


def calibration_pixels(images: ImageSet, count: int, seed: int) -> Tensor:
    """Return pixels ``[count, C, H, W]`` of a class-balanced subset; raise ``InputError`` where there are too few."""
    least = max(_LEAST, len(images.classes))
    if count < least:
        raise InputError(f"a calibration set of {count} images is too small; take at least {least}")
    if count > len(images):
        raise InputError(
            f"{images.name}: the training part has {len(images)} images, too few for a calibration set of {count}"
        )
    return pixels(images.images[balanced_subset(images, count, seed)])


def quantised(body: bytes, x: Tensor, *, calibration: Calibration, where: str) -> bytes:
    """Return the INT8 form of an ONNX file: QuantizeLinear and DequantizeLinear around its operators (QDQ).

    Weights are signed and have one scale per output channel, activations are unsigned and have one per tensor.
    ``calibration`` sets the activations' range from what training pixels ``x`` ``[N, C, H, W]`` cause: ``minmax`` all
    of it, ``percentile`` 99.99 % of it, ``entropy`` the range whose 8-bit histogram is nearest to the true one in KL
    divergence (Migacz 2017). Metadata are kept.
    """
    package("onnx", extra="export", where=f"{where}: quantisation")
    package("onnxruntime", extra="export", where=f"{where}: quantisation")
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    method = {
        "minmax": q.CalibrationMethod.MinMax,
        "entropy": q.CalibrationMethod.Entropy,
        "percentile": q.CalibrationMethod.Percentile,
    }[calibration]
    options = {"entropy": {"num_bins": _BINS}, "percentile": {"percentile": _PERCENTILE}}.get(calibration, {})
    metadata = onnx.load_model_from_string(body).metadata_props
    with TemporaryDirectory() as name, quiet():  # the calibrators print
        folder = Path(name)
        (folder / "float.onnx").write_bytes(body)
        quant_pre_process(str(folder / "float.onnx"), str(folder / "ready.onnx"))
        calibrator = q.create_calibrator(
            folder / "ready.onnx",
            None,
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=method,
            extra_options=options,
        )
        calibrator.collect_data(_reader(x))
        q.calibrate.save_tensors_data(calibrator.compute_data(), folder / "ranges.json")
        q.quantize_static(
            folder / "ready.onnx",
            folder / "int8.onnx",
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=method,
            calibration_cache_path=folder / "ranges.json",
        )
        model = onnx.load(folder / "int8.onnx")
    del model.metadata_props[:]
    model.metadata_props.extend(metadata)
    model.producer_name = "overproof"
    written: bytes = model.SerializeToString()
    return written


def _reader(x: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        """The images in batches, once."""

        def __init__(self) -> None:
            self._batches: Iterator[Tensor] = iter(torch.split(x, _BATCH))

        def get_next(self) -> dict[str, Any] | None:
            """Return the next batch by the input's name, or None."""
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Reader()
