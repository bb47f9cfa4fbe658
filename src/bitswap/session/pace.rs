//! How fast a peer delivers and how long it takes to answer, and from that how much it should be asked for at a time.
//!
//! Each want remembers what its peer had delivered when it was asked. When its block comes, what was delivered since then,
//! over the time since then, is a sample of the rate: with a full queue it is the rate of the peer, with an empty one it is
//! less, so the largest sample of the last while counts, and one of a few bytes, which tells of the round trip only, doesn't.
//! The shortest wait for any block is taken for the round trip.

use std::time::{Duration, Instant};

/// Bytes that a peer is asked for at a time, until it is known how fast it is.
const WINDOW_BYTES_FIRST: u64 = 4 * 1024 * 1024;

/// The least that a peer is asked for at a time, in bytes and in wants: even a slow peer shouldn't wait for us.
const WINDOW_BYTES_MIN: u64 = 1024 * 1024;
const WINDOW_WANTS_MIN: u64 = 4;

/// The most that a peer is asked for at a time, in bytes: 160 MB/s at a round trip of 200 ms.
const WINDOW_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The most that a peer is asked for at a time, in wants: boxo forgets those beyond its 1,024, and some room is for questions.
const WINDOW_WANTS_MAX: u64 = 900;

/// How many round trips' worth of blocks are asked for. More than one, so that the rate can be seen to grow.
const WINDOW_ROUND_TRIPS: u32 = 2;

/// How long a peer can go on, over the round trips, when we are held up, or when its disk or its link is for a moment.
const WINDOW_RESERVE: Duration = Duration::from_millis(100);

/// What a peer has read and will send whatever it is told, in bytes: that is how much boxo has on its way to a peer, and pinnace
/// about the same.
const READ_AHEAD_BYTES: u64 = 1024 * 1024;

/// The rate that a peer is taken to have before it delivered, in bytes per second.
const RATE_GUESS: f64 = 20e6;

/// The round trip that a peer is taken to have before it delivered: long, so that a proven peer comes first.
const ROUND_TRIP_GUESS: Duration = Duration::from_millis(100);

/// The least that has to have come for a sample of the rate, in bytes.
const SAMPLE_BYTES_MIN: u64 = 64 * 1024;

/// How long a sample of the rate counts, at least, and in round trips.
const RATE_PERIOD_MIN: Duration = Duration::from_millis(500);
const RATE_PERIOD_ROUND_TRIPS: u32 = 4;

/// What a want remembers of its peer from when it was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// When it was asked.
    pub(super) at: Instant,
    /// Bytes that the peer had delivered.
    delivered: u64,
    /// Bytes that it had still to deliver before this, as far as was known.
    ahead: u64,
}

/// The pace of one peer.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes.
    delivered: u64,
    round_trip: Option<Duration>,
    /// The largest samples of this period and of the one before, in bytes per second.
    rates: [f64; 2],
    period_since: Instant,
}

impl Pace {
    /// Of a peer that hasn't delivered anything.
    pub(super) fn new(now: Instant) -> Self {
        Self { delivered: 0, round_trip: None, rates: [0.0; 2], period_since: now }
    }

    /// The peer is asked for a block, with so many bytes asked for before.
    pub(super) fn mark(&self, ahead: u64, now: Instant) -> Mark {
        Mark { at: now, delivered: self.delivered, ahead }
    }

    /// The block came.
    pub(super) fn handle_block(&mut self, mark: Mark, bytes: u64, now: Instant) {
        self.delivered += bytes;
        let waited = now.saturating_duration_since(mark.at);
        let round_trip = self.round_trip.map_or(waited, |least| least.min(waited));
        self.round_trip = Some(round_trip);
        // Without a sample in it a period doesn't end, so that the rate isn't forgotten.
        if self.rates[0] > 0.0
            && now.saturating_duration_since(self.period_since)
                > RATE_PERIOD_MIN.max(RATE_PERIOD_ROUND_TRIPS * round_trip)
        {
            self.rates = [0.0, self.rates[0]];
            self.period_since = now;
        }
        let came = self.delivered - mark.delivered;
        if came >= SAMPLE_BYTES_MIN {
            // On loopback a block can come within the resolution of the clock.
            self.rates[0] = self.rates[0].max(came as f64 / waited.as_secs_f64().max(1e-6));
        }
    }

    /// Whether the peer has delivered enough to know its rate.
    pub(super) fn is_known(&self) -> bool {
        self.rates.iter().any(|rate| *rate > 0.0)
    }

    /// Bytes per second.
    pub(super) fn rate(&self) -> f64 {
        if self.is_known() { self.rates[0].max(self.rates[1]).max(1.0) } else { RATE_GUESS }
    }

    /// How long the peer takes to answer at least.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip.unwrap_or_default()
    }

    /// How many blocks the peer should be asked for at a time, when they have about `block_bytes`.
    pub(super) fn window(&self, block_bytes: u64) -> usize {
        let bytes = if self.is_known() {
            let time = WINDOW_ROUND_TRIPS * self.round_trip() + WINDOW_RESERVE;
            whole(self.rate() * time.as_secs_f64()).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
        } else {
            WINDOW_BYTES_FIRST
        };
        let wants = (bytes / block_bytes.max(1)).clamp(WINDOW_WANTS_MIN, WINDOW_WANTS_MAX);
        usize::try_from(wants).unwrap_or(usize::MAX)
    }

    /// How long the peer needs for so many bytes when nothing is in its way.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        // A day stands for as long as it likes.
        let seconds = (bytes as f64 / self.rate()).min(86_400.0);
        self.round_trip.unwrap_or(ROUND_TRIP_GUESS) + Duration::from_secs_f64(seconds)
    }

    /// How long a block of `bytes` should take from when it was asked for.
    pub(super) fn expected(&self, mark: Mark, bytes: u64) -> Duration {
        self.time_for(mark.ahead + bytes)
    }

    /// How long until a block of `bytes` comes. One that should be here may take as long again as it took so far.
    pub(super) fn remaining(&self, mark: Mark, bytes: u64, now: Instant) -> Duration {
        let waited = now.saturating_duration_since(mark.at);
        let expected = self.expected(mark, bytes);
        if waited < expected { expected - waited } else { waited }
    }

    /// Whether the peer will have begun to send a block before it can be told not to. It has read some blocks ahead, and sends those as well. One
    /// that hasn't sent anything yet may never send anything.
    pub(super) fn has_begun(&self, mark: Mark) -> bool {
        let ahead = (mark.delivered + mark.ahead).saturating_sub(self.delivered);
        let read_ahead = if self.is_known() { READ_AHEAD_BYTES } else { 0 };
        ahead <= whole(self.rate() * self.round_trip().as_secs_f64()) + read_ahead
    }
}

/// Bytes, from a product of measured figures.
fn whole(bytes: f64) -> u64 {
    // A cast of a float saturates, and makes zero of what is no number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes are neither negative nor that many"
    )]
    {
        bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 256 * 1024;

    /// Asks a simulated peer for as much as its window holds until `seconds` have passed; returns the pace and the bytes per
    /// second that came.
    fn deliver(rate: f64, round_trip: Duration, seconds: f64) -> (Pace, f64) {
        let start = Instant::now();
        let (mut now, mut pace) = (start, Pace::new(start));
        let (mut queue, mut free_at, mut came) = (std::collections::VecDeque::new(), start, 0);
        while now < start + Duration::from_secs_f64(seconds) {
            while queue.len() < pace.window(BLOCK) {
                free_at = free_at.max(now + round_trip / 2) + Duration::from_secs_f64(BLOCK as f64 / rate);
                queue.push_back((pace.mark(queue.len() as u64 * BLOCK, now), free_at + round_trip / 2));
            }
            let (mark, at) = queue.pop_front().unwrap();
            now = at;
            pace.handle_block(mark, BLOCK, now);
            came += BLOCK;
        }
        (pace, came as f64 / seconds)
    }

    #[test]
    fn links_of_every_length_are_kept_busy() {
        for (rate, milliseconds) in [(100e6, 200), (100e6, 50), (10e6, 50), (1e6, 200), (300e6, 0), (140e6, 200)] {
            let (pace, came) = deliver(rate, Duration::from_millis(milliseconds), 10.0);
            assert!(came > 0.9 * rate, "{rate} bytes/s at {milliseconds} ms: {came}");
            assert!((0.9..1.1).contains(&(pace.rate() / rate)), "{rate} is taken for {}", pace.rate());
        }
    }

    #[test]
    fn a_slow_peer_is_asked_for_little() {
        let (pace, _) = deliver(1e6, Duration::from_millis(20), 10.0);
        assert_eq!(pace.window(BLOCK), 4);
        let (pace, _) = deliver(10e6, Duration::from_millis(50), 10.0);
        assert!(pace.window(BLOCK) < 16, "{}", pace.window(BLOCK));
    }

    #[test]
    fn a_peer_that_becomes_slow_is_seen_to() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.handle_block(pace.mark(0, now), 1_000_000, now + Duration::from_millis(10));
        assert!(pace.rate() > 50e6);
        let mut later = now + Duration::from_secs(1);
        for _ in 0..4 {
            let mark = pace.mark(0, later);
            later += Duration::from_secs(1);
            pace.handle_block(mark, 1_000_000, later);
        }
        assert!((0.9e6..1.1e6).contains(&pace.rate()), "{}", pace.rate());
    }

    #[test]
    fn small_blocks_are_asked_for_by_the_hundreds() {
        assert!(Pace::new(Instant::now()).window(1024) > 800);
    }
}
