//! The structure of content: which blocks a block links to, what of a DAG is still missing, where a path leads, and
//! which blocks answer a question about what is there.
//!
//! Everything here is pure: bytes in, CIDs out. Obtaining and storing blocks is for others.

pub mod links;
pub mod path;
pub mod selection;
#[cfg(test)]
pub(crate) mod shapes;
pub mod target;
pub mod unixfs;
pub mod walk;

pub use links::{LinkError, links};
pub use path::{PathError, PathWalk, Resolved};
pub use selection::{ByteRange, Scope, Selection, SelectionError};
pub use target::Target;
pub use walk::{Walk, WalkError};

/// What is below a held block, but for the pieces of files: the blocks that someone may ask for by themselves.
pub fn entity_links(cid: &cid::Cid, data: &bytes::Bytes) -> Vec<cid::Cid> {
    if unixfs::is_file(cid.codec(), data) {
        return Vec::new();
    }
    // A node that can't be read has no links that anyone could follow.
    links(cid, data).unwrap_or_default()
}
