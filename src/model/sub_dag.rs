//! What is known to be below a node.

use cid::Cid;

/// A part of a DAG that is held: what is below one of its nodes, as far as it is listed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubDag {
    /// Blocks below the node, all held, with their lengths in bytes.
    pub blocks: Vec<(Cid, u32)>,
    /// Nodes from which on it goes on, with the number of links that lead there from the node.
    pub below: Vec<(Cid, u32)>,
    /// The most links that lead from the node to one of the blocks.
    pub height: u32,
}
