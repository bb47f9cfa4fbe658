//! bitswap
