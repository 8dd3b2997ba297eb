"""Networks whose features are measured: one file each."""
