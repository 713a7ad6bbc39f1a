"""The APIs that clients speak, one module each, behind one protocol."""
