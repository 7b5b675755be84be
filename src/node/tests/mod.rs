//! Whole homeservers in one process, on ports and in directories of their own.

mod federation;
