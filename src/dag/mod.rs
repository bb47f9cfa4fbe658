//! The structure of content: which blocks a block links to, and what of a DAG is still missing.
//!
//! Everything here is pure: bytes in, CIDs out. Obtaining and storing blocks is for others.

pub mod links;
pub mod walk;

pub use links::{LinkError, links};
pub use walk::{Walk, WalkError};
