//! What one address may take of something that all share, so that none takes all of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Equal shares of something that can be counted, one for each address.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    /// The most that one address may hold.
    each_max: usize,
    /// The addresses that hold or wait for something.
    held: Arc<Mutex<HashMap<IpAddr, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    free: Arc<Semaphore>,
    /// Those that hold something or wait for it.
    holders: usize,
}

/// Counts as one holder of an address, until it is dropped.
#[derive(Debug)]
struct Holder {
    shares: Shares,
    address: IpAddr,
    free: Arc<Semaphore>,
}

/// What was taken of an address's share, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    _permit: OwnedSemaphorePermit,
    // Dropped after the permit: whoever is the last to hold something forgets the address.
    _holder: Holder,
}

impl Shares {
    pub(super) fn new(each_max: usize) -> Self {
        Self { each_max, held: Arc::default() }
    }

    /// Takes one if the address's share has one left.
    pub(super) fn try_take(&self, address: IpAddr) -> Option<Share> {
        let holder = self.hold(address);
        let permit = Arc::clone(&holder.free).try_acquire_owned().ok()?;
        Some(Share { _permit: permit, _holder: holder })
    }

    /// Waits until so many are free in the address's share, and takes them; more than a whole share would wait for ever.
    pub(super) async fn take(&self, address: IpAddr, count: u32) -> Option<Share> {
        let holder = self.hold(address);
        // Fails only when it is closed, which nobody does.
        let permit = Arc::clone(&holder.free).acquire_many_owned(count).await.ok()?;
        Some(Share { _permit: permit, _holder: holder })
    }

    fn hold(&self, address: IpAddr) -> Holder {
        let address = network(address);
        let mut held = self.lock();
        let entry =
            held.entry(address).or_insert_with(|| Entry { free: Arc::new(Semaphore::new(self.each_max)), holders: 0 });
        entry.holders += 1;
        Holder { shares: self.clone(), address, free: Arc::clone(&entry.free) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut held = self.shares.lock();
        if let Some(entry) = held.get_mut(&self.address) {
            entry.holders -= 1;
            if entry.holders == 0 {
                held.remove(&self.address);
            }
        }
    }
}

/// Whoever has an IPv6 address usually has a whole /64, so that counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::pin::pin;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_share() {
        let shares = Shares::new(2);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(address);
        let taken = [shares.try_take(one).unwrap(), shares.try_take(one).unwrap()];
        assert!(shares.try_take(one).is_none());
        assert!(shares.try_take(address("::ffff:192.0.2.1")).is_none());
        let others = shares.try_take(other).unwrap();
        drop(taken);
        shares.try_take(one).unwrap();
        drop(others);
        assert!(shares.lock().is_empty(), "addresses that hold nothing are forgotten");
    }

    #[test]
    fn a_whole_ipv6_network_has_one_share() {
        let shares = Shares::new(1);
        let _taken = shares.try_take(address("2001:db8::1")).unwrap();
        assert!(shares.try_take(address("2001:db8::ffff:2")).is_none());
        shares.try_take(address("2001:db8:0:1::1")).unwrap();
    }

    #[tokio::test]
    async fn who_waits_gets_it_when_it_is_free_or_gives_up_without_a_trace() {
        let shares = Shares::new(3);
        let one = address("192.0.2.1");
        let taken = shares.take(one, 2).await.unwrap();
        {
            let mut given_up = pin!(shares.take(one, 3));
            assert!(poll!(given_up.as_mut()).is_pending());
        }
        let mut waiting = pin!(shares.take(one, 2));
        assert!(poll!(waiting.as_mut()).is_pending());
        drop(taken);
        drop(waiting.await.unwrap());
        assert!(shares.lock().is_empty());
    }
}
