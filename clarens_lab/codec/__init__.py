"""XML-RPC bytes and Python values: the two calls that read, the three that write, and the registry of encoders."""

from clarens_lab.codec.decode import Value, decode_call, decode_response
from clarens_lab.codec.encode import encode_call, encode_fault, encode_response, legible, simplify

__all__ = [
    "Value",
    "decode_call",
    "decode_response",
    "encode_call",
    "encode_fault",
    "encode_response",
    "legible",
    "simplify",
]
