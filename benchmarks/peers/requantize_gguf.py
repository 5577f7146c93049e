"""Write a GGUF file with other weights: `python requantize_gguf.py IN OUT F32|F16|Q8_0`.

Needs `gguf` and `numpy`; see `benchmarks.peers.llama_cpp` for the environment.
"""

from __future__ import annotations

import sys
from typing import Any

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}
WRITTEN_ANEW = ("general.architecture", "general.file_type")


def copy_metadata(reader: Any, writer: Any, kind: str) -> None:
    """Copy all fields but the file type, which is set to `kind`."""
    import gguf

    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in WRITTEN_ANEW:
            continue
        first, last = field.types[0], field.types[-1]
        sub_type = last if first == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), first, sub_type=sub_type)
    writer.add_file_type(FILE_TYPES[kind])


def copy_tensors(reader: Any, writer: Any, kind: str) -> None:
    """Copy all tensors in weights of `kind`; vectors stay float32."""
    import gguf
    import numpy as np

    quantization = getattr(gguf.GGMLQuantizationType, kind)
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weight = weight.reshape([int(size) for size in reversed(tensor.shape)])
        if kind == "F32" or weight.ndim < 2:
            writer.add_tensor(tensor.name, weight)
        else:
            packed = gguf.quants.quantize(weight, quantization)
            writer.add_tensor(tensor.name, packed, raw_dtype=quantization)


def main(source: str, target: str, kind: str) -> None:
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    copy_metadata(reader, writer, kind)
    copy_tensors(reader, writer, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
