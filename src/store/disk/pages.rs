//! Pages that redb wrote and that aren't in the file yet.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeFrom;
use std::sync::Arc;

use super::file::DiskFile;
use super::memory::Page;

/// Pages that are written at once at most: no system takes fewer.
const RUN_PAGES_MAX: usize = 64;

/// What is held in memory of a file, from the newest to the oldest.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// What was written last, and nobody has waited for.
    pub(super) held: Pages,
    /// What a commit has waited for in vain, as it were: it was promised that nothing comes before these in the file.
    pub(super) ordered: Arc<Pages>,
    /// What is on its way into the file.
    pub(super) flying: [Arc<Pages>; 2],
}

impl Layers {
    /// From the oldest to the newest.
    fn all(&self) -> [&Pages; 4] {
        [&self.flying[0], &self.flying[1], &self.ordered, &self.held]
    }

    /// Reads `out` from `offset` on, where `read` reads what the file has.
    pub(super) fn read(
        &self,
        offset: u64,
        out: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let all = self.all();
        // A page that covers everything needs no file.
        if let Some((newest, pages)) = all.iter().enumerate().rev().find(|(_, pages)| pages.touches(offset, out.len()))
            && let Some(whole) = pages.pages.get(&offset).and_then(|page| page.get(..out.len()))
        {
            debug_assert!(all[newest + 1..].iter().all(|pages| !pages.touches(offset, out.len())));
            out.copy_from_slice(whole);
            return Ok(());
        }
        read(out)?;
        for pages in all {
            pages.overlay(offset, out);
        }
        Ok(())
    }

    /// Whether any of it lies in or over `length` bytes from `offset` on.
    pub(super) fn touches(&self, offset: u64, length: usize) -> bool {
        self.all().iter().any(|pages| pages.touches(offset, length))
    }
}

/// Pages that aren't in the file yet, by their offsets. No two of them overlap.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) pages: BTreeMap<u64, Page>,
    pub(super) bytes: usize,
}

impl Pages {
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Those that lie in or over `length` bytes from `offset` on.
    fn overlapping(&self, offset: u64, length: usize) -> impl Iterator<Item = (u64, &Page)> {
        let end = offset + length as u64;
        let before = self.pages.range(..offset).next_back();
        let before = before.filter(|(start, page)| *start + page.len() as u64 > offset);
        before.into_iter().chain(self.pages.range(offset..end)).map(|(start, page)| (*start, page))
    }

    /// Whether any of them lies in or over `length` bytes from `offset` on.
    fn touches(&self, offset: u64, length: usize) -> bool {
        !self.pages.is_empty() && self.overlapping(offset, length).next().is_some()
    }

    /// Writes those from `part` on into the file, in its order, neighbours together.
    pub(super) fn write(&self, file: &dyn DiskFile, part: RangeFrom<u64>) -> io::Result<()> {
        let mut run = Run { file, start: 0, pages: Vec::new(), is_aligned: false };
        let mut end = 0;
        for (&offset, page) in self.pages.range(part) {
            if offset != end || run.pages.len() == RUN_PAGES_MAX || page.is_aligned() != run.is_aligned {
                run.write()?;
                run = Run { file, start: offset, pages: Vec::new(), is_aligned: page.is_aligned() };
            }
            run.pages.push(page);
            end = offset + page.len() as u64;
        }
        run.write()
    }

    /// Whether the page with these bounds would lie over another one in part.
    pub(super) fn would_tear(&self, offset: u64, length: usize) -> bool {
        self.overlapping(offset, length).any(|(start, page)| start != offset || page.len() != length)
    }

    pub(super) fn insert(&mut self, offset: u64, page: Page) {
        self.bytes += page.len();
        if let Some(before) = self.pages.insert(offset, page) {
            self.bytes -= before.len();
        }
    }

    /// Puts what is held of `length` bytes from `offset` on into `out`.
    fn overlay(&self, offset: u64, out: &mut [u8]) {
        for (start, page) in self.overlapping(offset, out.len()) {
            let from = start.max(offset);
            let to = (start + page.len() as u64).min(offset + out.len() as u64);
            let inside = |position: u64, base: u64| usize::try_from(position - base).unwrap_or(usize::MAX);
            out[inside(from, offset)..inside(to, offset)]
                .copy_from_slice(&page[inside(from, start)..inside(to, start)]);
        }
    }
}

/// Pages that lie one behind the other in the file.
struct Run<'pages> {
    file: &'pages dyn DiskFile,
    start: u64,
    pages: Vec<&'pages [u8]>,
    /// Whether all of them are aligned, in memory and in the file.
    is_aligned: bool,
}

impl Run<'_> {
    fn write(&self) -> io::Result<()> {
        if self.is_aligned {
            self.file.write_aligned_run(self.start, &self.pages)
        } else {
            self.file.write_run(self.start, &self.pages)
        }
    }
}
