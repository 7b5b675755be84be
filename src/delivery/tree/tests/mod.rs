//! What the DS does with trees: against the published vectors, and how large they get.

mod size;
mod vectors;
