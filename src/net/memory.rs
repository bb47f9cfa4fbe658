//! How much memory the process takes, and whether that is too much for more peers.

use std::time::{Duration, Instant};

/// How long one look is good for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Memory of this process that is in use, in bytes; nothing where it isn't Linux.
pub fn resident_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        // The second number is of pages (proc(5)).
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// A bound on it.
#[derive(Debug)]
pub struct Gate {
    bytes_max: u64,
    looked: Option<(Instant, u64)>,
}

impl Gate {
    /// With so many bytes; 0 for no bound.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, looked: None }
    }

    /// Whether the process takes more; `used` says how much it takes.
    pub fn is_exceeded(&mut self, now: Instant, used: impl FnOnce() -> Option<u64>) -> bool {
        if self.bytes_max == 0 {
            return false;
        }
        let is_old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= LOOK_EVERY;
        if self.looked.as_ref().is_none_or(is_old) {
            self.looked = used().map(|bytes| (now, bytes));
        }
        self.looked.is_some_and(|(_, bytes)| bytes > self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_taken_is_seen() {
        let before = resident_bytes().unwrap();
        let taken = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident_bytes().unwrap();
        // Other tests run beside it, and give some back.
        assert!(after > before + (32 << 20), "{before}, and {after} with {} more", taken.len());
    }

    #[test]
    fn the_bound_counts_from_look_to_look() {
        let (mut gate, start) = (Gate::new(100), Instant::now());
        assert!(!gate.is_exceeded(start, || Some(100)));
        assert!(!gate.is_exceeded(start + LOOK_EVERY / 2, || Some(101)), "it was looked at just before");
        assert!(gate.is_exceeded(start + LOOK_EVERY, || Some(101)));
        assert!(!gate.is_exceeded(start + 2 * LOOK_EVERY, || None), "nobody knows");
        assert!(!Gate::new(0).is_exceeded(start, || Some(u64::MAX)), "there is no bound");
    }
}
