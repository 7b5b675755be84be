//! What the DS does with trees, against the published vectors.

mod vectors;
