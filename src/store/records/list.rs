//! Reads lists of an account's pins from the index: what a list costs depends on its page, not on how many pins there are.
//!
//! Each filter is a [`Source`] of ordinals, a chunk at a time: what the index has, with what is found in its front. The chunks that all filters have are visited from the newest
//! down; in each, what the filters have in common is counted, and as much as the page takes is read. Only a search for a part of
//! a name looks at more: at the packed names of the pins that the other filters leave over.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};

use redb::{AccessGuard, Range, ReadOnlyTable, ReadTransaction};
use roaring::RoaringBitmap;

use super::chunk;
use super::front;
use super::index::{self, State, Term};
use super::names::{self, Search};
use super::tables::{FRONT, NAMES, PINS, PINS_BY_CREATED, PINS_BY_ORDINAL, POSTINGS, decode};
use super::{Records, RecordsError};
use crate::model::limits::META_PAIRS_MAX;
use crate::model::query::{NameMatch, Query, Status, fold_case};
use crate::model::{PinRecord, UserId};

/// One group is looked up by itself when the groups between the first and the last are at least as many times more. In
/// order, a group costs about this much less.
const GROUPS_SKIPPED_MIN: u64 = 4;

type Postings = ReadOnlyTable<&'static [u8], &'static [u8]>;

impl Records {
    /// Shows the pins of an account that match, newest first, until `visit` has enough, and returns how many match. All of it is
    /// from one snapshot. It reads the disk: not for the event loop.
    ///
    /// What tells [`Status::Pinning`] from [`Status::Queued`] isn't stored: `fetching` has the `created_ms` of the pins of
    /// the account that were being fetched at a time before the call.
    pub fn list_pins(
        &self,
        user: UserId,
        query: &Query,
        fetching: &[i64],
        visit: impl FnMut(PinRecord) -> ControlFlow<()>,
    ) -> Result<u64, RecordsError> {
        // No pin has so many, and looking for them all would take long.
        if query.meta.len() > META_PAIRS_MAX {
            return Ok(0);
        }
        let transaction = self.read()?;
        let Some(ordinals) = ordinals(&transaction, user, query)? else { return Ok(0) };
        let postings = transaction.open_table(POSTINGS)?;
        let mut sources = sources(&transaction, &postings, user, query, &ordinals, fetching)?;
        let search = search(&transaction, query)?;
        let mut page = Page {
            user,
            by_ordinal: transaction.open_table(PINS_BY_ORDINAL)?,
            pins: transaction.open_table(PINS)?,
            visit: Some(visit),
        };
        let (first_chunk, first_low) = index::split(*ordinals.start())?;
        let (last_chunk, last_low) = index::split(*ordinals.end())?;
        let (mut count, mut below) = (0, last_chunk);
        while let Some(chunk) = common_chunk(&mut sources, below)?
            && chunk >= first_chunk
        {
            let is_cut = chunk == last_chunk || (chunk == first_chunk && first_low > 0);
            if page.is_full() && search.is_none() && !is_cut {
                count += common_count(&sources, chunk)?;
            } else {
                let mut matching = common_ordinals(&sources, chunk)?;
                if chunk == first_chunk {
                    matching.remove_range(..u32::from(first_low));
                }
                if chunk == last_chunk {
                    matching.remove_range(u32::from(last_low) + 1..);
                }
                if let Some((table, search)) = &search {
                    matching = search_chunk(table, search, user, chunk, matching)?;
                }
                count += matching.len();
                page.read(chunk, &matching)?;
            }
            let Some(next) = chunk.checked_sub(1) else { break };
            below = next;
        }
        Ok(count)
    }
}

/// The ordinals of the pins that were made between the query's times; `None` if there can be none.
fn ordinals(
    transaction: &ReadTransaction,
    user: UserId,
    query: &Query,
) -> Result<Option<RangeInclusive<u64>>, RecordsError> {
    let first = query.after_ms.map_or(Some(i64::MIN), |after| after.checked_add(1));
    let last = query.before_ms.map_or(Some(i64::MAX), |before| before.checked_sub(1));
    let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
    if first > last {
        return Ok(None);
    }
    let table = transaction.open_table(PINS_BY_CREATED)?;
    let mut range = table.range((user.0, first)..=(user.0, last))?;
    let Some(oldest) = range.next().transpose()? else { return Ok(None) };
    let oldest = oldest.1.value().1;
    let newest = range.next_back().transpose()?.map_or(oldest, |newest| newest.1.value().1);
    Ok(Some(oldest..=newest))
}

/// The filters of a query, at least one. The search for a part of a name isn't among them.
fn sources<'a>(
    transaction: &ReadTransaction,
    postings: &'a Postings,
    user: UserId,
    query: &Query,
    ordinals: &RangeInclusive<u64>,
    fetching: &[i64],
) -> Result<Vec<Source<'a>>, RecordsError> {
    let mut wanted = Vec::new();
    if !query.contents.is_empty() {
        wanted.push(Wanted::Any(query.contents.iter().map(|content| Term::content(user, content)).collect()));
    }
    match (&query.name, query.name_match) {
        (Some(name), NameMatch::Exact) => wanted.push(Wanted::Any(vec![Term::name(user, name)])),
        (Some(name), NameMatch::IgnoreCase) => {
            wanted.push(Wanted::Beginning(Term::folded_name(user, &fold_case(name))));
        }
        _ => {}
    }
    for (key, value) in &query.meta {
        wanted.push(Wanted::Any(vec![Term::meta(user, key, value)]));
    }
    let mut sources = Vec::new();
    for (wanted, found) in wanted.iter().zip(search_front(transaction, user, ordinals, &wanted)?) {
        sources.push(Source::new(postings, wanted, found)?);
    }
    // A pin has one of all statuses, so asking for all is no filter unless it is the only one.
    if sources.is_empty() || !Status::ALL.iter().all(|status| query.wants(*status)) {
        let cursor = |state| Cursor::new(postings, &Term::state(user, state));
        let mut cursors = Vec::new();
        match (query.wants(Status::Queued), query.wants(Status::Pinning)) {
            (true, true) => cursors.push(cursor(State::Unfinished)?),
            (false, false) => {}
            (_, is_fetching) => {
                let mut unfinished = cursor(State::Unfinished)?;
                let fetching = ordinals_of(transaction, user, fetching)?;
                unfinished.mask = if is_fetching { Mask::Only(fetching) } else { Mask::Without(fetching) };
                cursors.push(unfinished);
            }
        }
        if query.wants(Status::Pinned) {
            cursors.push(cursor(State::Pinned)?);
        }
        if query.wants(Status::Failed) {
            cursors.push(cursor(State::Failed)?);
        }
        sources.push(Source { cursors, found: Chunks::new() });
    }
    Ok(sources)
}

/// The terms that a filter asks for.
enum Wanted {
    /// Any of these.
    Any(Vec<Term>),
    /// Whatever begins so.
    Beginning(Term),
}

impl Wanted {
    fn matches(&self, within_account: &[u8]) -> bool {
        match self {
            Self::Any(terms) => terms.iter().any(|term| term.within_account() == within_account),
            Self::Beginning(term) => within_account.starts_with(term.within_account()),
        }
    }
}

/// What each filter finds among the pins whose terms are in the front.
fn search_front(
    transaction: &ReadTransaction,
    user: UserId,
    ordinals: &RangeInclusive<u64>,
    wanted: &[Wanted],
) -> Result<Vec<Chunks>, RecordsError> {
    let mut found: Vec<Chunks> = wanted.iter().map(|_| Chunks::new()).collect();
    if wanted.is_empty() {
        return Ok(found);
    }
    let front = transaction.open_table(FRONT)?;
    for entry in front.range((user.0, *ordinals.start())..=(user.0, *ordinals.end()))? {
        let (key, row) = entry?;
        let (chunk, low) = index::split(key.value().1)?;
        for term in front::terms(row.value()) {
            let term = term?;
            for (wanted, found) in wanted.iter().zip(&mut found) {
                if wanted.matches(term) {
                    found.entry(chunk).or_default().insert(low.into());
                }
            }
        }
    }
    Ok(found)
}

type Chunks = BTreeMap<u32, RoaringBitmap>;

/// The ordinals of pins that were made at these times. A pin may be gone meanwhile.
fn ordinals_of(transaction: &ReadTransaction, user: UserId, created_ms: &[i64]) -> Result<Chunks, RecordsError> {
    let table = transaction.open_table(PINS_BY_CREATED)?;
    let mut chunks = Chunks::new();
    for created_ms in created_ms {
        if let Some(place) = table.get((user.0, *created_ms))? {
            let (chunk, low) = index::split(place.value().1)?;
            chunks.entry(chunk).or_default().insert(low.into());
        }
    }
    Ok(chunks)
}

/// A filter: the ordinals of all pins that it lets through.
struct Source<'a> {
    /// Postings of which any will do.
    cursors: Vec<Cursor<'a>>,
    /// What was found already.
    found: Chunks,
}

impl<'a> Source<'a> {
    fn new(postings: &'a Postings, wanted: &Wanted, mut found: Chunks) -> Result<Self, RecordsError> {
        let mut cursors = Vec::new();
        match wanted {
            Wanted::Any(terms) => {
                for term in terms {
                    cursors.push(Cursor::new(postings, term)?);
                }
            }
            // Postings of several terms mix here; there are as many as spellings of one name.
            Wanted::Beginning(term) => {
                let (first, last) = term.all_keys();
                for entry in postings.range::<&[u8]>(first.as_slice()..=last.as_slice())? {
                    let (key, ordinals) = entry?;
                    let chunk = index::chunk_of_key(key.value())?;
                    *found.entry(chunk).or_default() |= chunk::decode(ordinals.value())?;
                }
            }
        }
        Ok(Self { cursors, found })
    }

    /// The highest chunk that it has, up to `below` and including it.
    fn chunk_up_to(&mut self, below: u32) -> Result<Option<u32>, RecordsError> {
        let mut highest = self.found.range(..=below).next_back().map(|(chunk, _)| *chunk);
        for cursor in &mut self.cursors {
            highest = highest.max(cursor.seek(below)?);
        }
        Ok(highest)
    }

    fn ordinals(&self, chunk: u32) -> Result<RoaringBitmap, RecordsError> {
        let mut all = self.found.get(&chunk).cloned();
        for cursor in &self.cursors {
            if let Some(more) = cursor.ordinals(chunk)? {
                all = Some(match all {
                    Some(ordinals) => ordinals | more,
                    None => more,
                });
            }
        }
        Ok(all.unwrap_or_default())
    }

    /// A stored chunk that is all that it has there, if there is one.
    fn stored(&self, chunk: u32) -> Option<&[u8]> {
        if self.found.contains_key(&chunk) {
            return None;
        }
        let mut standing = self.cursors.iter().filter_map(|cursor| cursor.stored(chunk).map(|bytes| (cursor, bytes)));
        match (standing.next(), standing.next()) {
            (Some((Cursor { mask: Mask::Nothing, .. }, bytes)), None) => Some(bytes),
            _ => None,
        }
    }

    /// How many ordinals it has in a chunk: a pin has one state, one content and one name, so no two postings share one, and what is in
    /// the front is in no posting.
    fn count(&self, chunk: u32) -> Result<u64, RecordsError> {
        let found = self.found.get(&chunk).map_or(0, RoaringBitmap::len);
        self.cursors.iter().try_fold(found, |count, cursor| Ok(count + cursor.count(chunk)?))
    }
}

/// The highest chunk that all sources have, up to `below` and including it.
fn common_chunk(sources: &mut [Source<'_>], mut below: u32) -> Result<Option<u32>, RecordsError> {
    loop {
        let start = below;
        for source in &mut *sources {
            match source.chunk_up_to(below)? {
                Some(chunk) => below = chunk,
                None => return Ok(None),
            }
        }
        if below == start {
            return Ok(Some(below));
        }
    }
}

/// What all sources have in a chunk.
fn common_ordinals(sources: &[Source<'_>], chunk: u32) -> Result<RoaringBitmap, RecordsError> {
    Ok(intersection(all_ordinals(sources, chunk)?).unwrap_or_default())
}

/// How much all sources have in a chunk.
fn common_count(sources: &[Source<'_>], chunk: u32) -> Result<u64, RecordsError> {
    if let [source] = sources {
        return source.count(chunk);
    }
    if let [first, second] = sources
        && let (Some(first), Some(second)) = (first.stored(chunk), second.stored(chunk))
    {
        return chunk::common_len(first, second);
    }
    let mut all = all_ordinals(sources, chunk)?;
    // The last step needs no result of its own.
    let Some(last) = all.pop() else { return Ok(0) };
    Ok(intersection(all).map_or_else(|| last.len(), |common| common.intersection_len(&last)))
}

/// What each source has in a chunk, the one with the least first.
fn all_ordinals(sources: &[Source<'_>], chunk: u32) -> Result<Vec<RoaringBitmap>, RecordsError> {
    let mut all = sources.iter().map(|source| source.ordinals(chunk)).collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(RoaringBitmap::len);
    Ok(all)
}

fn intersection(all: Vec<RoaringBitmap>) -> Option<RoaringBitmap> {
    all.into_iter().reduce(|mut common, ordinals| {
        common &= ordinals;
        common
    })
}

/// What of a term's posting counts.
enum Mask {
    Nothing,
    Only(Chunks),
    Without(Chunks),
}

/// The chunks of one posting from the highest down.
struct Cursor<'a> {
    postings: &'a Postings,
    term: Term,
    mask: Mask,
    rest: Range<'static, &'static [u8], &'static [u8]>,
    /// The chunk where it stands; `None` at the end.
    head: Option<(u32, AccessGuard<'static, &'static [u8]>)>,
}

impl<'a> Cursor<'a> {
    fn new(postings: &'a Postings, term: &Term) -> Result<Self, RecordsError> {
        let (first, last) = term.all_keys();
        let rest = postings.range::<&[u8]>(first.as_slice()..=last.as_slice())?;
        let mut cursor = Self { postings, term: term.clone(), mask: Mask::Nothing, rest, head: None };
        cursor.step()?;
        Ok(cursor)
    }

    fn step(&mut self) -> Result<(), RecordsError> {
        self.head = match self.rest.next_back().transpose()? {
            Some((key, ordinals)) => Some((index::chunk_of_key(key.value())?, ordinals)),
            None => None,
        };
        Ok(())
    }

    /// Goes to the highest chunk up to `below` and including it. It never goes up again.
    fn seek(&mut self, below: u32) -> Result<Option<u32>, RecordsError> {
        if self.head.as_ref().is_some_and(|(chunk, _)| *chunk > below) {
            // The next one will do most of the time; what is far is looked up.
            self.step()?;
            if self.head.as_ref().is_some_and(|(chunk, _)| *chunk > below) {
                let (first, last) = (self.term.all_keys().0, self.term.key(below));
                self.rest = self.postings.range::<&[u8]>(first.as_slice()..=last.as_slice())?;
                self.step()?;
            }
        }
        Ok(self.head.as_ref().map(|(chunk, _)| *chunk))
    }

    /// The chunk of the posting, if it stands there.
    fn stored(&self, chunk: u32) -> Option<&[u8]> {
        self.head.as_ref().filter(|(head, _)| *head == chunk).map(|(_, bytes)| bytes.value())
    }

    /// How much the posting has in a chunk.
    fn count(&self, chunk: u32) -> Result<u64, RecordsError> {
        match (&self.mask, self.stored(chunk)) {
            (Mask::Nothing, Some(bytes)) => chunk::len(bytes),
            _ => Ok(self.ordinals(chunk)?.map_or(0, |ordinals| ordinals.len())),
        }
    }

    /// What the posting has in a chunk, if it stands there.
    fn ordinals(&self, chunk: u32) -> Result<Option<RoaringBitmap>, RecordsError> {
        let Some(bytes) = self.stored(chunk) else { return Ok(None) };
        let mut ordinals = chunk::decode(bytes)?;
        match &self.mask {
            Mask::Nothing => {}
            Mask::Only(chunks) => match chunks.get(&chunk) {
                Some(only) => ordinals &= only,
                None => ordinals.clear(),
            },
            Mask::Without(chunks) => {
                if let Some(without) = chunks.get(&chunk) {
                    ordinals -= without;
                }
            }
        }
        Ok(Some(ordinals))
    }
}

type Names = ReadOnlyTable<(u64, u64), &'static [u8]>;

fn search(transaction: &ReadTransaction, query: &Query) -> Result<Option<(Names, Search)>, RecordsError> {
    let ignores_case = match query.name_match {
        NameMatch::Partial => false,
        NameMatch::PartialIgnoreCase => true,
        NameMatch::Exact | NameMatch::IgnoreCase => return Ok(None),
    };
    let Some(part) = &query.name else { return Ok(None) };
    Ok(Some((transaction.open_table(NAMES)?, Search::new(part, ignores_case))))
}

/// Which of the `candidates` in a chunk have the part in their names.
fn search_chunk(
    table: &Names,
    search: &Search,
    user: UserId,
    chunk: u32,
    mut candidates: RoaringBitmap,
) -> Result<RoaringBitmap, RecordsError> {
    let (Some(first), Some(last)) = (candidates.min(), candidates.max()) else { return Ok(candidates) };
    let group_of = |low: u32| names::split(index::join(chunk, low)).0;
    let (first, last) = (group_of(first), group_of(last));
    let mut found = RoaringBitmap::new();
    let start = index::join(chunk, 0);
    let mut run = |group: u64, bytes: &[u8]| {
        search.run(bytes, |low| {
            // No group reaches into another chunk, so there is always one.
            if let Ok(low) = u32::try_from(names::join(group, low) - start) {
                found.insert(low);
            }
        })
    };
    if candidates.len() < (last - first) / GROUPS_SKIPPED_MIN {
        let mut groups: Vec<u64> = candidates.iter().map(group_of).collect();
        groups.dedup();
        for group in groups {
            if let Some(bytes) = table.get((user.0, group))? {
                run(group, bytes.value())?;
            }
        }
    } else {
        for entry in table.range((user.0, first)..=(user.0, last))? {
            let (key, bytes) = entry?;
            run(key.value().1, bytes.value())?;
        }
    }
    candidates &= found;
    Ok(candidates)
}

/// Reads pins as long as whoever asked has not enough.
struct Page<V> {
    user: UserId,
    by_ordinal: ReadOnlyTable<(u64, u64), &'static [u8; 16]>,
    pins: ReadOnlyTable<&'static [u8; 16], &'static [u8]>,
    /// `None` when it has enough.
    visit: Option<V>,
}

impl<V: FnMut(PinRecord) -> ControlFlow<()>> Page<V> {
    /// Whether whoever asked has enough.
    fn is_full(&self) -> bool {
        self.visit.is_none()
    }

    fn read(&mut self, chunk: u32, ordinals: &RoaringBitmap) -> Result<(), RecordsError> {
        let Some(visit) = &mut self.visit else { return Ok(()) };
        for low in ordinals.iter().rev() {
            let ordinal = index::join(chunk, low);
            let missing = || RecordsError::Codec {
                table: "pins",
                reason: format!("the pin {ordinal} of the account {} is missing", self.user),
            };
            let id = self.by_ordinal.get((self.user.0, ordinal))?.ok_or_else(missing)?;
            let record = self.pins.get(id.value())?.ok_or_else(missing)?;
            if visit(decode("pins", record.value())?).is_break() {
                self.visit = None;
                break;
            }
        }
        Ok(())
    }
}
