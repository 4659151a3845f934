"""Runtimes, one file a vendor; found by name through the entry-point group `esm_onnx.runtimes`."""

if __name__ != "esm_onnx.runtimes":
    raise ImportError(f"this package is esm_onnx.runtimes: imported as {__name__!r} it would be loaded twice")
