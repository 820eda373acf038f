"""Identifiers made by the application: UUIDv7, sortable by the millisecond they were made in (RFC 9562, section 5.7)."""

import os
import time
import uuid


def new_id() -> str:
    """A fresh UUIDv7 as text: 48 bits of Unix milliseconds, version and variant bits, 74 random bits."""
    millis = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (millis & (1 << 48) - 1) << 80 | 0x7 << 76 | (random_bits >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | random_bits & (1 << 62) - 1
    return str(uuid.UUID(int=value))
