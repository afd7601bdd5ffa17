"""Sealed storage: files encrypted and authenticated at rest, under keys that can be rotated."""

from fedsim.sealing._envelope import CHUNK_BYTES, Label, open_bytes, seal_bytes, seal_chunks
from fedsim.sealing._files import array_pieces, read_array, read_sealed, write_sealed
from fedsim.sealing._keys import StorageKeys, key_id, new_key_line, storage_keys
from fedsim.sealing._log import LogText, SealedLog, open_log, read_log
from fedsim.sealing._rotation import SUFFIX, rewrap_file, sealed_files

__all__ = [
    "CHUNK_BYTES",
    "SUFFIX",
    "Label",
    "LogText",
    "SealedLog",
    "StorageKeys",
    "array_pieces",
    "key_id",
    "new_key_line",
    "open_bytes",
    "open_log",
    "read_array",
    "read_log",
    "read_sealed",
    "rewrap_file",
    "seal_bytes",
    "seal_chunks",
    "sealed_files",
    "storage_keys",
    "write_sealed",
]
