//! Tables and stories for one gateway.
