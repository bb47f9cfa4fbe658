//! The pins of one account that wait for their turn, in order, with quick answers to "how many are before this one?".

use std::collections::BTreeMap;

use crate::model::PinId;

/// Bits of a place that tell those of one group apart.
const GROUP_BITS: u32 = 10;

/// Pins by their *places*, numbers that only say which is before which.
///
/// Places fall into groups of 1,024 neighbours, so that counting those before one looks at the sizes of the groups before it, and
/// at one group.
#[derive(Debug, Default)]
pub(super) struct Queue {
    groups: BTreeMap<i64, BTreeMap<i64, PinId>>,
    len: usize,
}

impl Queue {
    /// Puts a pin at a place that is free.
    pub(super) fn insert(&mut self, place: i64, pin: PinId) {
        if self.groups.entry(place >> GROUP_BITS).or_default().insert(place, pin).is_none() {
            self.len += 1;
        }
    }

    /// Frees a place.
    pub(super) fn remove(&mut self, place: i64) {
        let Some(group) = self.groups.get_mut(&(place >> GROUP_BITS)) else { return };
        if group.remove(&place).is_some() {
            self.len -= 1;
        }
        if group.is_empty() {
            self.groups.remove(&(place >> GROUP_BITS));
        }
    }

    /// The pin at the first place.
    pub(super) fn first(&self) -> Option<PinId> {
        self.groups.first_key_value()?.1.first_key_value().map(|(_, pin)| *pin)
    }

    /// How many pins are before this place.
    pub(super) fn before(&self, place: i64) -> usize {
        let number = place >> GROUP_BITS;
        let in_groups: usize = self.groups.range(..number).map(|(_, group)| group.len()).sum();
        in_groups + self.groups.get(&number).map_or(0, |group| group.range(..place).count())
    }

    /// How many pins wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_first_and_those_before_are_counted() {
        let mut queue = Queue::default();
        let pins: Vec<(i64, PinId)> = (-1500..1500).step_by(3).map(|place| (place, PinId::new())).collect();
        for (place, pin) in pins.iter().rev() {
            queue.insert(*place, *pin);
        }
        for (index, (place, pin)) in pins.iter().enumerate() {
            assert_eq!(queue.len(), pins.len() - index);
            assert_eq!(queue.first(), Some(*pin));
            assert_eq!(queue.before(*place), 0);
            assert_eq!(queue.before(*place + 3), 1);
            assert_eq!(queue.before(2000), pins.len() - index);
            queue.remove(*place);
            queue.remove(*place);
        }
        assert!(queue.is_empty());
        assert!(queue.groups.is_empty());
    }
}
