//! Our frame: zstd, then AES-256-GCM, bound to the object's name.
