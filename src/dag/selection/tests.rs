//! Selections.
